"""The table of external validation: the runs on data sets that they were not trained on."""

from collections.abc import Sequence

from hemseg_cli.core.classes import UNION
from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.reporting.content import column_of
from hemseg_cli.reporting.results import RunResults, estimate_of
from hemseg_cli.reporting.tables import Column, ReportTable, Value

_SECTIONS = ("segmentation", "presence", "volumes")


def external_table(runs: Sequence[RunResults]) -> ReportTable | None:
    """Show each run on each data set that is not its own, a row for each class too.

    The run's own data set stands first, to compare with. None where no run was scored elsewhere.
    """
    if not any(run.external for run in runs):
        return None

    # The run on its own data stands above it on others: that is the comparison.
    summaries = [
        (run, summary) for run in runs if run.external for summary in (run.summary, *run.external)
    ]
    metrics = {
        row.key: column_of(row)
        for _, summary in summaries
        for row in summary.rows
        if row.section in _SECTIONS and row.averaged_over != "none"
    }
    rows: list[tuple[Value, ...]] = []
    for run, summary in summaries:
        # All classes together, then each by itself.
        parts: dict[str, tuple[int, dict[str, Interval]]] = {
            UNION: (summary.n_cases - summary.n_empty_truth, summary.metrics)
        }
        parts |= {key: (each.n_present, each.metrics) for key, each in summary.classes.items()}
        for key, (present, found) in parts.items():
            who = (run.name, summary.dataset or run.dataset, summary.split, summary.protocol)
            values = (estimate_of(found.get(metric)) for metric in metrics)
            label_class = key if summary.classes else ""
            rows.append((*who, label_class, summary.n_cases, present, *values))

    columns = (
        Column("run", "Run"),
        Column("dataset", "Data set"),
        Column("split", "Split"),
        Column("protocol", "Protocol"),
        Column("class", "Class"),
        Column("n", "Scans", 0),
        Column("n_present", "With hemorrhage", 0),
        *metrics.values(),
    )
    note = (
        "Runs on data sets that they were not trained on, below their own. Different scans, "
        "scanners and labels: the rows of two data sets are no test of each other."
    )
    table = ReportTable("external", "External validation", columns, tuple(rows), note)
    return table.without_empty_columns()


def external_warnings(runs: Sequence[RunResults]) -> list[str]:
    """Return what the evaluations on other data sets warned of, each with its data set."""
    return [
        f"{run.name} on {summary.dataset}: {text}"
        for run in runs
        for summary in run.external
        for text in summary.warnings
    ]
