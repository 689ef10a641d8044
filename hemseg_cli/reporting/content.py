"""What a report says: its tables and warnings, made from the results of one run or several."""

from collections.abc import Iterable, Sequence
from typing import Any

from hemseg_cli.cases import volume_stratum
from hemseg_cli.reporting.published import PUBLISHED, PUBLISHED_CASES, PUBLISHED_DATASET, PUBLISHED_SPLIT
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.tables import Column, ReportTable, Value

METRICS = (
    Column("dice", "Dice", 4),
    Column("iou", "IoU", 4),
    Column("hd95_mm", "HD95 (mm)", 2),
    Column("nsd_2mm", "NSD at 2 mm", 4),
    Column("hd95_voxel", "HD95 (voxels)", 2),
)
_CASE_COLUMNS = (
    Column("dice", "Dice", 3),
    Column("iou", "IoU", 3),
    Column("hd95_mm", "HD95 (mm)", 1),
    Column("nsd_2mm", "NSD at 2 mm", 3),
    Column("hd95_voxel", "HD95 (voxels)", 1),
    Column("truth_ml", "Truth (mL)", 2),
    Column("predicted_ml", "Predicted (mL)", 2),
    Column("volume_error_ml", "Error (mL)", 2),
    Column("lesions_truth", "Lesions", 0),
    Column("lesions_predicted", "Predicted lesions", 0),
    Column("lesions_detected", "Detected", 0),
)


def summary_table(runs: Sequence[RunResults]) -> ReportTable:
    """Mean and interval of each metric per run, and the published systems below, each row with its protocol."""
    columns = (Column("system", "System"), Column("protocol", "Protocol"), Column("n", "Scans", 0), *METRICS, Column("missed", "Missed", 0))
    ours: list[tuple[Value, ...]] = [
        (run.name, run.protocol, run.n_cases, *(run.estimate(metric.key) for metric in METRICS), run.count("n_missed")) for run in runs
    ]
    theirs: list[tuple[Value, ...]] = [
        (f"{row.name} (published)", "paper", PUBLISHED_CASES, row.dice, row.iou, None, None, row.hd95_voxel, None) for row in PUBLISHED
    ]
    marks = {len(ours) + n: "published" for n in range(len(theirs))}
    table = ReportTable("summary", "Summary", columns, (*ours, *theirs), " ".join(_summary_notes(runs)), marks)
    return table.without_empty_columns()


def _summary_notes(runs: Sequence[RunResults]) -> Iterable[str]:
    bootstrap = runs[0].summary.get("bootstrap")
    if isinstance(bootstrap, dict):
        unit = _plural(str(bootstrap.get("unit", "scan")))
        yield (
            f"Mean [{_percent(bootstrap.get('confidence', 0.95))} interval]: {bootstrap.get('method', 'percentile')} bootstrap, "
            f"{bootstrap.get('samples', '?')} resamples of {unit}, seed {bootstrap.get('seed', '?')}."
        )
    yield (
        "Published rows: HemSeg-200 test split (45 scans) under the paper's own protocol: scored on the resampled grid, HD95 in voxels "
        "without spacing, scans with an undefined HD95 left out of its mean."
    )
    if not all(stands_beside_published(run) for run in runs):
        yield "A run of another data set, split or protocol is not directly comparable to them (hemseg evaluate --protocol paper is)."


def stands_beside_published(run: RunResults) -> bool:
    """Whether the run was scored as the published table was: same data set, split, and protocol."""
    return run.dataset == PUBLISHED_DATASET and run.split == PUBLISHED_SPLIT and run.protocol == "paper"


def cases_table(runs: Sequence[RunResults]) -> ReportTable:
    """One row per scan and run, worst Dice first."""
    columns = (
        Column("run", "Run"),
        Column("scan", "Scan"),
        Column("patient", "Patient"),
        Column("stratum_ml", "Size (mL)"),
        *_CASE_COLUMNS,
    )
    rows = []
    for run in runs:
        for case in run.cases:
            truth_ml = case.number("truth_ml")
            size = volume_stratum(truth_ml) if truth_ml is not None else ""
            rows.append((run.name, case.scan, case.patient, size, *(case.number(column.key) for column in _CASE_COLUMNS)))
    rows.sort(key=lambda row: (row[4] is not None, row[4] if isinstance(row[4], float) else 0.0))
    note = "One row per scan, worst Dice first. Volumes by true voxel geometry. A dash is an undefined value."
    return ReportTable("cases", "Scans", columns, tuple(rows), note).without_empty_columns()


def history_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """The training history of every run, one row per epoch; None where no run has one."""
    keys = list(dict.fromkeys(key for run in runs for row in run.history for key in row))
    if not keys:
        return None
    rows = tuple((run.name, *(row.get(key) for key in keys)) for run in runs for row in run.history)
    return ReportTable("history", "Training history", (Column("run", "Run"), *(Column(key, key, 4) for key in keys)), rows)


def warnings(runs: Sequence[RunResults]) -> list[str]:
    """What a reader has to know before any number: the evaluation's own warnings, missed cases, differing protocols."""
    found: list[str] = []
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        if missed := run.count("n_missed"):
            found.append(
                f"{prefix}{missed} of {run.n_cases} scans were missed (no voxel predicted); "
                "they count with Dice 0 and an HD95 of the scan's diagonal."
            )
        if false_positive := run.count("n_false_positive"):
            found.append(f"{prefix}{false_positive} scans without hemorrhage have a prediction (false positives, counted apart).")
        found += [f"{prefix}{_warning_text(entry)}" for entry in _list(run.summary.get("warnings"))]
    protocols = sorted({run.protocol for run in runs})
    if len(protocols) > 1:
        found.append(f"The runs were scored under different protocols ({', '.join(protocols)}): their numbers do not compare.")
    if len({frozenset(case.scan for case in run.cases) for run in runs}) > 1:
        found.append("The runs were scored on different scans: means do not compare; the comparison takes the scans that both have.")
    return list(dict.fromkeys(found))


def _warning_text(entry: Any) -> str:
    if isinstance(entry, dict):
        return str(entry.get("message") or entry.get("text") or "; ".join(f"{key}: {value}" for key, value in entry.items()))
    return str(entry)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _percent(share: Any) -> str:
    return f"{share * 100:g} %" if isinstance(share, int | float) else "?"


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
