"""What a report says: its tables and warnings, made from the results of one run or several."""

from collections.abc import Iterator, Sequence

from hemseg_cli.core.cases import volume_stratum
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.names import first_few
from hemseg_cli.evaluation.metric_table import Metric, Section
from hemseg_cli.evaluation.run_comparison import (
    refuse_different_protocols,
    scans_with_other_labels,
)
from hemseg_cli.reporting.published import (
    PUBLISHED,
    PUBLISHED_CASES,
    PUBLISHED_DATASET,
    PUBLISHED_SPLIT,
    PublishedSystem,
)
from hemseg_cli.reporting.results import RunResults, estimate_of
from hemseg_cli.reporting.tables import Column, ReportTable, Value

_STRATA = (("volume", "true volume", " mL"), ("tilt", "gantry", ""), ("class", "class", ""))
_ALSO_IN_STRATA = ("lesion_sensitivity",)
_RESAMPLED = "paper (resampled)"


def metric_columns(
    runs: Sequence[RunResults], sections: Sequence[Section] = ("segmentation",)
) -> tuple[Column, ...]:
    """Return the columns of the metrics that the runs were scored with, of some sections."""
    # A metric that several runs were scored with takes one column.
    rows: dict[str, Metric] = {}
    for run in runs:
        rows |= {row.key: row for row in run.rows if row.section in sections}
    return tuple(column_of(row) for row in rows.values())


def column_of(row: Metric) -> Column:
    """Return a row of the metric table as a column of the report."""
    return Column(row.key, row.heading, row.digits, row.definition)


def summary_table(runs: Sequence[RunResults]) -> ReportTable:
    """Show mean and interval of each metric per run, each row with its protocol.

    The published systems stand below where a run is of the published data.
    """
    metrics = list(metric_columns(runs))
    beside = shows_published(runs)
    # The published table has its HD95 in voxels: it needs a column even where no run has it.
    if beside and all(column.key != "hd95_voxel" for column in metrics):
        metrics.append(Column("hd95_voxel", "HD95 (voxels)", 2))
    counts = (Column("n", "Scans", 0), Column("missed", "Missed", 0))
    columns = (Column("system", "System"), Column("protocol", "Protocol"), *metrics, *counts)

    # Runs first, then the published systems, which are marked so that the page can mute them.
    ours: list[tuple[Value, ...]] = [
        (
            run.name,
            protocol_text(run),
            *(run.estimate(metric.key) for metric in metrics),
            run.n_cases,
            run.summary.n_missed,
        )
        for run in runs
    ]
    theirs = [_published_row(row, metrics) for row in PUBLISHED] if beside else []
    marks = {len(ours) + n: "published" for n in range(len(theirs))}
    note = " ".join(_summary_notes(runs))
    return ReportTable("summary", "Summary", columns, (*ours, *theirs), note, marks)


def _published_row(row: PublishedSystem, metrics: Sequence[Column]) -> tuple[Value, ...]:
    # A metric that the paper does not give stays a dash.
    known = {"dice": row.dice, "iou": row.iou, "hd95_voxel": row.hd95_voxel}
    values = (known.get(metric.key) for metric in metrics)
    return (f"{row.name} (published)", "paper", *values, PUBLISHED_CASES, None)


def protocol_text(run: RunResults) -> str:
    """Name the run's protocol; marked where masks came to the published grid by another one."""
    return _RESAMPLED if run.summary.n_resampled else run.protocol


def shows_published(runs: Sequence[RunResults]) -> bool:
    """Whether the published systems stand on the page: a run is of the data they were made on."""
    return any(run.dataset == PUBLISHED_DATASET for run in runs)


def _summary_notes(runs: Sequence[RunResults]) -> Iterator[str]:
    yield _interval_note(runs[0])
    if any(run.summary.n_resampled for run in runs):
        yield (
            "Resampled: masks came to the published grid by way of another one; such a row does "
            "not compare with the published table."
        )
    if not shows_published(runs):
        return

    yield (
        "Published rows: HemSeg-200 test split (45 scans) under the paper's own protocol: scored "
        "on the resampled grid, HD95 in voxels without spacing, scans with an undefined HD95 left "
        "out of its mean."
    )
    if not all(stands_beside_published(run) for run in runs):
        yield (
            "A run of another data set, split or protocol is not directly comparable with them; "
            "hemseg evaluate --protocol paper is."
        )


def _interval_note(run: RunResults) -> str:
    how = run.summary.bootstrap
    return (
        f"Mean [{confidence_text(run)} interval]: {how.method} bootstrap, {how.samples} resamples "
        f"of {how.unit}s, seed {how.seed}; rates of lesions exact."
    )


def confidence_text(run: RunResults) -> str:
    """Return the confidence of the intervals: `95 %`."""
    return f"{run.summary.bootstrap.confidence * 100:g} %"


def stands_beside_published(run: RunResults) -> bool:
    """Whether the run was scored as the published table was: same data set, split, and protocol."""
    return (
        run.dataset == PUBLISHED_DATASET
        and run.split == PUBLISHED_SPLIT
        and run.protocol == "paper"
        and run.summary.n_resampled == 0
    )


def volumes_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show errors and agreement of volumes, and detection of lesions, per run."""
    agreement = (
        Column("loa_low_ml", "Limits from (mL)", 2),
        Column("loa_high_ml", "to (mL)", 2),
        Column("ccc", "Concordance", 3),
    )
    volumes, lesions = (
        metric_columns(runs, ("volumes",)),
        metric_columns(runs, ("presence", "lesions")),
    )
    columns = (Column("run", "Run"), *volumes, *agreement, *lesions)

    # Means with intervals from the metric table, the limits of agreement from their own place.
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        cells: dict[str, Value] = {
            column.key: run.estimate(column.key) for column in (*volumes, *lesions)
        }
        for column in agreement:
            limit = getattr(run.summary.agreement, column.key)
            cells[column.key] = limit if limit == limit else None  # NaN is unequal to itself
        rows.append((run.name, *(cells[column.key] for column in columns[1:])))

    note = (
        "Limits of agreement are bias \u2213 1.96 SD (Bland and Altman); concordance is Lin's. "
        "Lesions are 26-connected components; one shared voxel detects one."
    )
    table = ReportTable("volumes_lesions", "Volumes and lesions", columns, tuple(rows), note)
    table = table.without_empty_columns()
    return table if len(table.columns) > 1 else None


def strata_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show each metric by true volume, gantry tilt and class.

    None where the evaluation has no strata.
    """
    lesions = metric_columns(runs, ("lesions",))
    metrics = (*metric_columns(runs), *(c for c in lesions if c.key in _ALSO_IN_STRATA))
    # Stratum by stratum, the runs below one another, so that they can be compared.
    rows: list[tuple[Value, ...]] = []
    for by, words, unit in _STRATA:
        for run in runs:
            for name, stratum in run.strata(by).items():
                values = (estimate_of(stratum.metrics.get(metric.key)) for metric in metrics)
                rows.append((words, f"{name}{unit}", run.name, stratum.n, *values))
    if not rows:
        return None

    names = (Column("by", "By"), Column("stratum", "Stratum"), Column("run", "Run"))
    columns = (*names, Column("n", "Scans", 0), *metrics)
    note = _interval_note(runs[0])
    return ReportTable("strata", "Strata", columns, tuple(rows), note).without_empty_columns()


def cases_table(runs: Sequence[RunResults]) -> ReportTable:
    """Show one row per scan and run, worst Dice first."""
    # Metrics of one scan only: rates over all scans have no value in a row.
    numbers: dict[str, Column] = {}
    for run in runs:
        numbers |= {row.key: column_of(row) for row in run.summary.rows if row.function is not None}
    columns = (
        Column("run", "Run"),
        Column("scan", "Scan"),
        Column("patient", "Patient"),
        Column("size_ml", "Size (mL)"),
        *numbers.values(),
    )

    # Undefined Dice stands with the worst: such a scan wants to be looked at too.
    ordered = sorted(
        ((_worst_first(case.number("dice")), run, case) for run in runs for case in run.cases),
        key=lambda entry: entry[0],
    )
    rows: list[tuple[Value, ...]] = []
    for _, run, case in ordered:
        truth_ml = case.number("truth_ml")
        size = volume_stratum(truth_ml) if truth_ml else ""
        values = (case.number(key) for key in numbers)
        rows.append((run.name, case.scan, case.patient, size, *values))

    note = (
        "One row per scan, worst Dice first. Volumes by true voxel geometry. A dash is an "
        "undefined value."
    )
    return ReportTable("cases", "Scans", columns, tuple(rows), note).without_empty_columns()


def _worst_first(dice: float | None) -> float:
    return -1.0 if dice is None else dice


def history_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show the training history of every run, one row per epoch; None where no run has one."""
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
    """Say what a reader has to know before any number.

    The evaluation's own warnings, missed cases, runs that do not compare.
    """
    # What is said of several runs in the same words is said once, with all their names.
    said_of: dict[str, list[str]] = {}
    for run in runs:
        for text in _run_warnings(run):
            said_of.setdefault(text, []).append(run.name)
    found = [
        f"{', '.join(names)}: {text}" if len(runs) > 1 else text for text, names in said_of.items()
    ]
    return list(dict.fromkeys([*found, *_comparison_warnings(runs)]))


def _comparison_warnings(runs: Sequence[RunResults]) -> Iterator[str]:
    try:
        refuse_different_protocols([run.evaluated for run in runs])
    except HemsegError as error:
        yield f"Their numbers do not compare, and no test is made: {error.message}."

    if len({frozenset(run.table["scan"]) for run in runs}) > 1:
        yield "The runs were scored on different scans: their means do not compare."

    if differing := scans_with_other_labels([run.evaluated for run in runs]):
        yield (
            f"The runs were scored against different labels of {len(differing)} scans "
            f"({first_few(differing)}): no test is made."
        )

    # Nothing forbids to compare them, but the reader has to know.
    datasets = sorted({run.dataset for run in runs if run.dataset})
    if len(datasets) > 1:
        yield f"The runs were scored on different data sets ({', '.join(datasets)})."


def _run_warnings(run: RunResults) -> Iterator[str]:
    summary = run.summary
    if missed := summary.n_missed:
        counted = (
            "left out of HD95"
            if run.protocol == "paper"
            else "counted with Dice 0 and an HD95 of the scan's diagonal"
        )
        yield (
            f"{missed} of {run.n_cases} scans {'was' if missed == 1 else 'were'} missed (no voxel "
            f"of the hemorrhage found): {counted}."
        )
    if summary.n_false_positive:
        yield (
            f"False positives: {summary.n_false_positive} scans without hemorrhage have a "
            "prediction (counted apart from the means)."
        )
    if run.n_cases == 1:
        yield "One scan only: there is no interval."
    yield from summary.warnings
