"""What a report says: its tables and warnings, made from the results of one run or several."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hemseg_cli.core.cases import volume_stratum
from hemseg_cli.reporting.published import (
    PUBLISHED,
    PUBLISHED_CASES,
    PUBLISHED_DATASET,
    PUBLISHED_SPLIT,
    Estimate,
)
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.tables import Column, ReportTable, Value

_OVERLAP = (Column("dice", "Dice", 4), Column("iou", "IoU", 4))
_DISTANCE = (Column("hd95_mm", "HD95 (mm)", 2), Column("hd95_voxel", "HD95 (voxels)", 2))
_VOLUMES = (
    Column("volume_error_ml", "Volume error (mL)", 2),
    Column("abs_volume_error_ml", "Absolute error (mL)", 2),
    Column("relative_volume_difference", "Relative difference", 3),
)
_LESIONS = (
    Column("lesion_sensitivity", "Lesion sensitivity", 3),
    Column("lesion_precision", "Lesion precision", 3),
    Column("lesion_f1", "Lesion F1", 3),
)
_CASE_NUMBERS = (
    Column("truth_ml", "Truth (mL)", 2),
    Column("predicted_ml", "Predicted (mL)", 2),
    Column("volume_error_ml", "Error (mL)", 2),
    Column("lesions_truth", "Lesions", 0),
    Column("lesions_predicted", "Predicted lesions", 0),
    Column("lesions_detected", "Detected", 0),
)
_STRATA = (("volume", "true volume", " mL"), ("tilt", "gantry", ""), ("class", "class", ""))


def metric_columns(runs: Sequence[RunResults]) -> tuple[Column, ...]:
    """The overlap and distance metrics that the runs were scored with.

    The tolerance of the surface Dice is in its name (`nsd_2mm`).
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.metric_names))
    surface = (
        Column(key, f"NSD at {key.removeprefix('nsd_').removesuffix('mm')} mm", 4)
        for key in keys
        if key.startswith("nsd_")
    )
    return tuple(column for column in (*_OVERLAP, *_DISTANCE, *surface) if column.key in keys)


def summary_table(runs: Sequence[RunResults]) -> ReportTable:
    """Mean and interval of each metric per run, and the published systems below, each row with its protocol."""
    metrics = list(metric_columns(runs))
    if all(column.key != "hd95_voxel" for column in metrics):
        metrics.append(_DISTANCE[1])
    metrics.sort(key=lambda column: column.key.startswith("nsd_"))
    counts = (Column("n", "Scans", 0), Column("missed", "Missed", 0))
    columns = (Column("system", "System"), Column("protocol", "Protocol"), *metrics, *counts)
    ours: list[tuple[Value, ...]] = [
        (
            run.name,
            run.protocol,
            *(run.estimate(metric.key) for metric in metrics),
            run.n_cases,
            run.count("n_missed"),
        )
        for run in runs
    ]
    theirs: list[tuple[Value, ...]] = []
    for row in PUBLISHED:
        known: dict[str, Estimate] = {
            "dice": row.dice,
            "iou": row.iou,
            "hd95_voxel": row.hd95_voxel,
        }
        theirs.append(
            (
                f"{row.name} (published)",
                "paper",
                *(known.get(metric.key) for metric in metrics),
                PUBLISHED_CASES,
                None,
            )
        )
    marks = {len(ours) + n: "published" for n in range(len(theirs))}
    return ReportTable(
        "summary", "Summary", columns, (*ours, *theirs), " ".join(_summary_notes(runs)), marks
    )


def _summary_notes(runs: Sequence[RunResults]) -> Iterator[str]:
    yield _interval_note(runs[0])
    yield (
        "Published rows: HemSeg-200 test split (45 scans) under the paper's own protocol: scored on the resampled grid, HD95 in voxels "
        "without spacing, scans with an undefined HD95 left out of its mean."
    )
    if not all(stands_beside_published(run) for run in runs):
        yield "A run of another data set, split or protocol is not directly comparable with them; hemseg evaluate --protocol paper is."


def _interval_note(run: RunResults) -> str:
    bootstrap = run.summary.get("bootstrap")
    if not isinstance(bootstrap, dict):
        return "Mean [interval]."
    unit = _plural(str(bootstrap.get("unit", "scan")))
    return (
        f"Mean [{confidence_text(run)} interval]: {bootstrap.get('method', 'percentile')} bootstrap, "
        f"{bootstrap.get('samples', '?')} resamples of {unit}, seed {bootstrap.get('seed', '?')}."
    )


def confidence_text(run: RunResults) -> str:
    """`95 %`."""
    bootstrap = run.summary.get("bootstrap")
    share = bootstrap.get("confidence") if isinstance(bootstrap, dict) else None
    return f"{share * 100:g} %" if isinstance(share, int | float) else "95 %"


def stands_beside_published(run: RunResults) -> bool:
    """Whether the run was scored as the published table was: same data set, split, and protocol."""
    return (
        run.dataset == PUBLISHED_DATASET
        and run.split == PUBLISHED_SPLIT
        and run.protocol == "paper"
    )


def volumes_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Errors and agreement of volumes, and detection of lesions, per run.

    None where the evaluation has none of it.
    """
    agreement = (
        Column("loa_low_ml", "Limits from (mL)", 2),
        Column("loa_high_ml", "to (mL)", 2),
        Column("ccc", "Concordance", 3),
    )
    columns = (Column("run", "Run"), *_VOLUMES, *agreement, *_LESIONS)
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        estimates = {column.key: run.estimate(column.key) for column in (*_VOLUMES, *_LESIONS)}
        limits = {column.key: run.agreement(column.key) for column in agreement}
        rows.append((run.name, *((estimates | limits)[column.key] for column in columns[1:])))
    note = (
        "Volume error is predicted minus true, by true voxel geometry; limits of agreement are bias \u2213 1.96 SD; concordance is Lin's. "
        "Lesions are 26-connected components; one shared voxel detects one; rates are pooled over all scans."
    )
    table = ReportTable(
        "volumes_lesions", "Volumes and lesions", columns, tuple(rows), note
    ).without_empty_columns()
    return table if len(table.columns) > 1 else None


def strata_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Each metric by true volume, gantry tilt and class.

    None where the evaluation has no strata.
    """
    metrics = (*metric_columns(runs), _LESIONS[0])
    rows: list[tuple[Value, ...]] = []
    for by, words, unit in _STRATA:
        for run in runs:
            for name, stratum in run.strata(by).items():
                rows.append(
                    (
                        words,
                        f"{name}{unit}",
                        run.name,
                        stratum.n,
                        *(stratum.estimate(metric.key) for metric in metrics),
                    )
                )
    if not rows:
        return None
    columns = (
        Column("by", "By"),
        Column("stratum", "Stratum"),
        Column("run", "Run"),
        Column("n", "Scans", 0),
        *metrics,
    )
    return ReportTable(
        "strata", "Strata", columns, tuple(rows), _interval_note(runs[0])
    ).without_empty_columns()


def cases_table(runs: Sequence[RunResults]) -> ReportTable:
    """One row per scan and run, worst Dice first."""
    there = {key for run in runs for case in run.cases for key in case.numbers}
    surface = [
        Column(key, f"NSD at {key.removeprefix('nsd_').removesuffix('mm')} mm", 3)
        for key in sorted(there)
        if key.startswith("nsd_")
    ]
    metrics = (
        *(Column(column.key, column.title, 3) for column in _OVERLAP),
        *(Column(c.key, c.title, 1) for c in _DISTANCE),
        *surface,
    )
    numbers = (*metrics, *_CASE_NUMBERS)
    columns = (
        Column("run", "Run"),
        Column("scan", "Scan"),
        Column("patient", "Patient"),
        Column("size_ml", "Size (mL)"),
        *numbers,
    )
    ordered = sorted(
        ((_worst_first(case.number("dice")), run, case) for run in runs for case in run.cases),
        key=lambda entry: entry[0],
    )
    rows: list[tuple[Value, ...]] = []
    for _, run, case in ordered:
        truth_ml = case.number("truth_ml")
        size = volume_stratum(truth_ml) if truth_ml else ""
        rows.append(
            (
                run.name,
                case.scan,
                case.patient,
                size,
                *(case.number(column.key) for column in numbers),
            )
        )
    note = "One row per scan, worst Dice first. Volumes by true voxel geometry. A dash is an undefined value."
    return ReportTable("cases", "Scans", columns, tuple(rows), note).without_empty_columns()


def _worst_first(dice: float | None) -> float:
    return -1.0 if dice is None else dice


def history_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """The training history of every run, one row per epoch; None where no run has one."""
    keys = list(dict.fromkeys(key for run in runs for row in run.history for key in row))
    if not keys:
        return None
    rows = tuple((run.name, *(row.get(key) for key in keys)) for run in runs for row in run.history)
    return ReportTable(
        "history",
        "Training history",
        (Column("run", "Run"), *(Column(key, key, 4) for key in keys)),
        rows,
    )


def warnings(runs: Sequence[RunResults]) -> list[str]:
    """What a reader has to know before any number.

    The evaluation's own warnings, missed cases, runs that do not compare.
    """
    said_of: dict[str, list[str]] = {}
    for run in runs:
        for text in _run_warnings(run):
            said_of.setdefault(text, []).append(run.name)
    found = [
        f"{', '.join(names)}: {text}" if len(runs) > 1 else text for text, names in said_of.items()
    ]
    protocols = sorted({run.protocol for run in runs})
    if len(protocols) > 1:
        found.append(
            f"The runs were scored under different protocols ({', '.join(protocols)}): their numbers do not compare, and no test is made."
        )
    if len({frozenset(case.scan for case in run.cases) for run in runs}) > 1:
        found.append("The runs were scored on different scans: their means do not compare.")
    if differing := scans_with_other_labels(runs):
        found.append(
            f"The runs were scored against different labels of {len(differing)} scans ({', '.join(differing[:5])}): no test is made."
        )
    datasets = sorted({run.dataset for run in runs if run.dataset})
    if len(datasets) > 1:
        found.append(f"The runs were made on different data sets ({', '.join(datasets)}).")
    return list(dict.fromkeys(found))


def scans_with_other_labels(runs: Sequence[RunResults]) -> list[str]:
    """Scans whose true volume is not the same in every run that has it."""
    volumes: dict[str, set[float]] = {}
    for run in runs:
        for case in run.cases:
            if (truth_ml := case.number("truth_ml")) is not None:
                volumes.setdefault(case.scan, set()).add(truth_ml)
    return sorted(
        scan for scan, found in volumes.items() if max(found) - min(found) > 1e-3 * max(found)
    )


def _run_warnings(run: RunResults) -> Iterator[str]:
    if missed := run.count("n_missed"):
        counted = (
            "left out of HD95"
            if run.protocol == "paper"
            else "counted with Dice 0 and an HD95 of the scan's diagonal"
        )
        yield f"{missed} of {run.n_cases} scans {'was' if missed == 1 else 'were'} missed (no voxel of the hemorrhage found): {counted}."
    if false_positive := run.count("n_false_positive"):
        yield f"False positives: {false_positive} scans without hemorrhage have a prediction (counted apart from the means)."
    if run.n_cases == 1:
        yield "One scan only: there is no interval."
    yield from (str(text) for text in _texts(run.summary.get("warnings")))


def _texts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
