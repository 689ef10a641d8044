"""The comparison of the runs on the page, from their stored metrics, by the evaluation's own tests."""

import math
from collections.abc import Sequence

from hemseg_cli.config.schema import EvaluateConfig
from hemseg_cli.evaluation.bootstrap import Bootstrap
from hemseg_cli.evaluation.comparison import PairedDifference, compare_pairs, rank_runs
from hemseg_cli.reporting.content import metric_columns, scans_with_other_labels
from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.results import CaseResult, RunResults
from hemseg_cli.reporting.tables import Column, ReportTable, Value, p_value_text

_ABSOLUTE_ERROR = Column("abs_volume_error_ml", "Absolute volume error (mL)", 2)
_RANKED_BY = "dice"


def comparison_tables(runs: Sequence[RunResults], settings: EvaluateConfig) -> list[ReportTable]:
    """The ranking, and every pair of runs in every metric, on the scans that all runs have.

    None below two runs, without such scans, or where protocols or labels differ. Scans without
    hemorrhage are left out, as in the means. `settings`: resamples, confidence, seed and method of
    the intervals.
    """
    by_run = {run.name: {case.scan: case for case in run.cases} for run in runs}
    scans = sorted(set.intersection(*(set(cases) for cases in by_run.values())))
    if (
        len(runs) < 2
        or not scans
        or len({run.protocol for run in runs}) > 1
        or scans_with_other_labels(runs)
    ):
        return []
    bootstrap = Bootstrap(
        samples=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
        method=settings.method,
    )
    first = by_run[runs[0].name]
    patients = [first[scan].patient or f"scan {scan}" for scan in scans]
    columns = (*metric_columns(runs), _ABSOLUTE_ERROR)
    values = {
        column.key: {
            name: [_value(cases[scan], column.key) for scan in scans]
            for name, cases in by_run.items()
        }
        for column in columns
    }
    shown = [
        column
        for column in columns
        if all(any(not math.isnan(v) for v in series) for series in values[column.key].values())
    ]
    pairs = [
        (column, pair)
        for column in shown
        for pair in compare_pairs(column.key, values[column.key], patients, bootstrap)
    ]
    return [
        _ranking(values[_RANKED_BY], patients, bootstrap, len(scans)),
        _pairs(pairs, bootstrap, len(scans), len(set(patients))),
    ]


def _value(case: CaseResult, metric: str) -> float:
    if metric == _ABSOLUTE_ERROR.key:
        error = case.number("volume_error_ml")
        return math.nan if error is None else abs(error)
    value = case.number(metric)
    return math.nan if value is None or case.number("truth_ml") == 0 else value


def _ranking(
    dice: dict[str, list[float]], patients: Sequence[str], bootstrap: Bootstrap, n: int
) -> ReportTable:
    columns = (
        Column("run", "Run"),
        Column("dice", "Mean Dice", 4),
        Column("rank", "Rank", 1),
        Column("p_best", "First in resamples", 3),
    )
    rows: list[tuple[Value, ...]] = [
        (rank.run, rank.mean, Estimate(rank.rank, rank.rank_low, rank.rank_high), rank.p_best)
        for rank in rank_runs(_RANKED_BY, dice, patients, bootstrap)
    ]
    note = (
        f"By mean Dice over the {n} scans that all runs have. Rank [{bootstrap.confidence * 100:g} % interval] over {bootstrap.samples} "
        "resamples of patients; last column: share of the resamples in which the run is first."
    )
    return ReportTable("comparison_ranking", "Ranking", columns, tuple(rows), note)


def _pairs(
    pairs: Sequence[tuple[Column, PairedDifference]], bootstrap: Bootstrap, n: int, patients: int
) -> ReportTable:
    columns = (
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
    rows: list[tuple[Value, ...]] = []
    for column, pair in pairs:
        difference = Estimate(pair.difference, _known(pair.ci_low), _known(pair.ci_high))
        p_values = (pair.p_bootstrap, pair.p_bootstrap_holm, pair.p_wilcoxon, pair.p_wilcoxon_holm)
        rows.append(
            (
                column.title,
                pair.a,
                pair.b,
                pair.n,
                difference,
                *(p_value_text(_known(p)) for p in p_values),
            )
        )
    note = (
        f"Paired on the {n} scans ({patients} patients) that all runs have; a scan without a mask counts as missed. Mean difference "
        f"[{bootstrap.confidence * 100:g} % interval] and p by paired bootstrap over patients, and Wilcoxon's signed ranks; "
        "Holm: adjusted for all pairs of runs in a metric."
    )
    return ReportTable("comparison", "Comparison of the runs", columns, tuple(rows), note)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
