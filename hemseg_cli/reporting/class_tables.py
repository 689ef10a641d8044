"""The tables and the chart of the classes: each by itself, and what it was taken for."""

from collections.abc import Sequence

from hemseg_cli.evaluation.class_pairs import NONE
from hemseg_cli.evaluation.display import CLASS_CONVENTION
from hemseg_cli.evaluation.metric_table import Section
from hemseg_cli.reporting.chart import Chart
from hemseg_cli.reporting.content import metric_columns
from hemseg_cli.reporting.interval_bars import interval_bars
from hemseg_cli.reporting.results import RunResults, estimate_of
from hemseg_cli.reporting.tables import Column, ReportTable, Value

_SECTIONS: tuple[Section, ...] = ("segmentation", "presence", "volumes", "lesions")


def class_keys(runs: Sequence[RunResults]) -> list[str]:
    """Return the classes that some run was scored in one by one, in the order of their values."""
    return list(dict.fromkeys(key for run in runs for key in run.summary.classes))


def classes_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show each class by itself; None where the runs have one class."""
    metrics = metric_columns(runs, _SECTIONS)
    # Class by class, the runs below one another.
    rows: list[tuple[Value, ...]] = []
    for key in class_keys(runs):
        for run in runs:
            found = run.summary.classes.get(key)
            if found is None:
                continue
            counts = (found.n_present, found.n_missed, found.n_false_positive)
            values = (estimate_of(found.metrics.get(metric.key)) for metric in metrics)
            rows.append((key, found.name, run.name, *counts, *values))
    if not rows:
        return None

    columns = (
        Column("class", "Class"),
        Column("name", "Name"),
        Column("run", "Run"),
        Column("n_present", "Scans with it", 0),
        Column("n_missed", "Missed", 0),
        Column("n_false_positive", "False positive", 0),
        *metrics,
    )
    table = ReportTable("classes", "Classes", columns, tuple(rows), CLASS_CONVENTION)
    return table.without_empty_columns()


def confusion_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show the true volume of each class by what it was taken for; None for one class."""
    # Runs may know other classes than the labels: each has a column, "no class" stands last.
    others = list(
        dict.fromkeys(
            other
            for run in runs
            for found in run.summary.classes.values()
            for other in found.taken_for_ml
            if other != NONE
        )
    )
    rows: list[tuple[Value, ...]] = [
        (run.name, key, *(found.taken_for_ml.get(other) for other in (*others, NONE)))
        for run in runs
        for key, found in run.summary.classes.items()
    ]
    if not rows:
        return None

    columns = (
        Column("run", "Run"),
        Column("class", "True class"),
        *(Column(f"taken_for_{other}_ml", f"as {other} (mL)", 2) for other in others),
        Column(f"taken_for_{NONE}_ml", "as no class (mL)", 2),
    )
    note = "True volume of a class over all scans, divided by the class that it was predicted as."
    return ReportTable("confusion", "What each class was taken for", columns, tuple(rows), note)


def dice_by_class(runs: Sequence[RunResults]) -> Chart | None:
    """Draw mean Dice with its interval by class."""
    return interval_bars(
        runs,
        lambda run: [
            (key, estimate_of(found.metrics.get("dice")))
            for key, found in run.summary.classes.items()
        ],
        key="classes",
        title="Dice by class",
        alt="Mean Dice and interval by class",
        axis="Class",
    )
