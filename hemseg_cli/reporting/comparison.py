"""The comparison of the runs on the page: the evaluation's own, as tables of the report."""

import math
from collections.abc import Sequence

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.evaluation.comparison import PairedDifference
from hemseg_cli.evaluation.metric_table import format_p
from hemseg_cli.evaluation.run_comparison import Comparison, compare_runs
from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.tables import Column, ReportTable, Value

_TITLES = {
    "comparison": "Comparison of the runs",
    "comparison_complete": "Complete cases",
    "comparison_classes": "Comparison class by class",
}


def comparison_tables(runs: Sequence[RunResults]) -> list[ReportTable]:
    """Show the ranking, and every pair of runs in every metric.

    None below two runs, and none where protocols or labels differ or no scan is common: the page's
    warnings say so.
    """
    if len(runs) < 2:
        return []
    try:
        compared = compare_runs([run.evaluated for run in runs])
    except HemsegError:
        return []

    # The main table counts a scan without a mask as missed; the next leaves it out.
    note = (
        f"Paired on the {compared.n_scans} scans ({compared.n_patients} patients) that all runs "
        "were scored on; a scan without a mask counts as missed. "
    )
    tables = [_ranking(compared), _pairs("comparison", compared, compared.pairs, note)]
    if compared.complete_case:
        note = (
            f"Complete cases: without the {len(compared.without_mask)} scans that a run has no "
            "mask of. Leaves out what a run failed on: read it beside the table above. "
        )
        tables.append(_pairs("comparison_complete", compared, compared.complete_case, note))
    if compared.by_class:
        note = "On the scans that have the class. Holm also over the classes. "
        tables.append(_pairs("comparison_classes", compared, compared.by_class, note))
    return tables


def _ranking(compared: Comparison) -> ReportTable:
    metric = compared.row(compared.ranked_by)
    columns = (
        Column("run", "Run"),
        Column(metric.key, f"Mean {metric.heading}", metric.digits),
        Column("rank", "Rank", 1),
        Column("p_best", "First in resamples", 3),
    )
    rows: list[tuple[Value, ...]] = [
        (rank.run, rank.mean, Estimate(rank.rank, rank.rank_low, rank.rank_high), rank.p_best)
        for rank in compared.ranking
    ]
    note = (
        f"By mean {metric.heading} over the {compared.n_scans} scans that all runs were scored "
        f"on. Rank [{compared.confidence * 100:g} % interval] over {compared.samples} resamples "
        "of patients; last column: share of the resamples in which the run is first."
    )
    return ReportTable("comparison_ranking", "Ranking", columns, tuple(rows), note)


def _pairs(
    key: str, compared: Comparison, pairs: Sequence[PairedDifference], note: str
) -> ReportTable:
    columns = (
        Column("class", "Class"),
        Column("metric", "Metric"),
        Column("a", "Run A"),
        Column("b", "Run B"),
        Column("n", "Scans", 0),
        Column("difference", "A \u2212 B", 4),
        Column("p_bootstrap", "p (bootstrap)", 3),
        Column("p_bootstrap_holm", "Holm", 3),
        Column("p_wilcoxon", "p (Wilcoxon)", 3),
        Column("p_wilcoxon_holm", "Holm", 3),
    )
    # Too few patients give no p: a dash, not "nan".
    rows: list[tuple[Value, ...]] = []
    for pair in pairs:
        p_values = (pair.p_bootstrap, pair.p_bootstrap_holm, pair.p_wilcoxon, pair.p_wilcoxon_holm)
        rows.append(
            (
                pair.label_class,
                compared.heading(pair.metric),
                pair.a,
                pair.b,
                pair.n,
                _difference(pair),
                *(format_p(p) if math.isfinite(p) else None for p in p_values),
            )
        )

    note += (
        f"Mean difference [{compared.confidence * 100:g} % interval] and p by one paired "
        "bootstrap-t over patients: the interval excludes 0 exactly where "
        f"p < {1 - compared.confidence:.2g}. Wilcoxon: signed ranks. Holm: adjusted for all "
        "pairs of runs in a metric."
    )
    return ReportTable(key, _TITLES[key], columns, tuple(rows), note).without_empty_columns()


def _difference(pair: PairedDifference) -> Estimate:
    # An interval that could not be had is no interval from nan to nan.
    known = [value if math.isfinite(value) else None for value in (pair.ci_low, pair.ci_high)]
    mean = pair.difference if math.isfinite(pair.difference) else None
    return Estimate(mean, known[0], known[1], "too few" if None in known and pair.n else "")
