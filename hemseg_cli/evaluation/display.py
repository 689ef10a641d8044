"""The tables that `hemseg evaluate` shows."""

import math
from collections.abc import Sequence

from hemseg_cli.core.console import Table
from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.comparison import PairedDifference
from hemseg_cli.evaluation.metric_table import (
    Metric,
    averaged,
    format_interval,
    format_number,
    format_p,
)
from hemseg_cli.evaluation.run_comparison import Comparison
from hemseg_cli.evaluation.summary import Summary

_STRATA_SECTIONS = ("segmentation",)
_ALSO_IN_STRATA = ("lesion_sensitivity",)


def evaluation_tables(
    runs: Sequence[tuple[str, Summary]], comparison: Comparison | None
) -> tuple[Table, ...]:
    """Show the metrics of each run (name, summary), their definitions and strata.

    With several runs their differences and ranking too.
    """
    tables = [
        table
        for name, summary in runs
        for table in (
            _metrics_table(name, summary),
            *_class_tables(name, summary),
            _strata_table(name, summary),
        )
    ]
    if comparison is not None:
        tables += _comparison_tables(comparison)
    return tuple(tables)


def interval_text(found: Interval, digits: int) -> str:
    """Show the interval of an estimate."""
    return format_interval(found.ci_low, found.ci_high, digits, found.method)


def _metrics_table(name: str, summary: Summary) -> Table:
    confidence = f"{summary.bootstrap.confidence * 100:g} % interval"
    rows = []
    for row in averaged(summary.rows):
        found = summary.metrics.get(row.key)
        if found is not None:
            mean = format_number(found.mean, row.digits)
            interval = interval_text(found, row.digits)
            rows.append([row.heading, mean, interval, str(found.n), row.definition])
    split = f", split {summary.split}" if summary.split else ""
    return Table(
        f"{name}{split}{_data_words(summary)}, {summary.protocol} protocol, "
        f"{summary.n_cases} scans",
        ["metric", "mean", confidence, "n", "definition"],
        rows,
        caption=_caption(summary),
        right=frozenset({"mean", confidence, "n"}),
        explains=frozenset({"definition"}),
    )


CLASS_CONVENTION = (
    "Each class by itself, as if it were the only hemorrhage: the metrics of its masks are means "
    "over the scans that have it, where a missed one counts 0; a scan without it counts in errors "
    "of volume, specificity and false positives."
)


def _class_tables(name: str, summary: Summary) -> list[Table]:
    """Show the numbers of each class, and what each true class was taken for."""
    if not summary.classes:
        return []

    # A row for each class with its counts of scans and its metrics.
    metrics = [row for row in averaged(summary.rows) if row.section in ("segmentation", "presence")]
    rows = [
        [
            key,
            str(found.n_present),
            str(found.n_missed),
            str(found.n_false_positive),
            *(_estimate_text(found.metrics[metric.key], metric) for metric in metrics),
        ]
        for key, found in summary.classes.items()
    ]
    counts = ("with it", "missed", "false positive")
    per_class = Table(
        f"{name}: classes",
        ["class", *counts, *(metric.heading for metric in metrics)],
        rows,
        caption=CLASS_CONVENTION,
        right=frozenset(counts),
        n_named=1,
    )

    # A row of true volume, divided by what it was taken for.
    taken_for = list(next(iter(summary.classes.values())).taken_for_ml)
    confusion = Table(
        f"{name}: what each class was taken for (mL)",
        ["true class", *taken_for],
        [
            [key, *(format_number(found.taken_for_ml.get(other), 2) for other in taken_for)]
            for key, found in summary.classes.items()
        ],
        right=frozenset(taken_for),
        n_named=1,
    )
    return [per_class, confusion]


def _data_words(summary: Summary) -> str:
    """Name both data sets where the run was trained on another one than it is scored on."""
    if not summary.trained_on or summary.trained_on == summary.dataset:
        return ""
    return f" of {summary.dataset} (trained on {summary.trained_on})"


def _caption(summary: Summary) -> str:
    how = summary.bootstrap
    if summary.protocol == "paper":
        resampled = ""
        if summary.n_resampled:
            resampled = (
                f" RESAMPLED: {summary.n_resampled} masks came to the published grid by way of "
                "another one; do not set these numbers beside the published table."
            )
        return (
            f"{how.samples} resamples of cases, seed {how.seed}, as published. "
            f"{summary.n_missed} missed; HD95 in voxels without undefined cases (n), as the "
            f"published table was made.{resampled}"
        )

    # How the intervals were made differs by metric: sizes on the logarithm, rates exactly.
    methods = sorted({found.method for found in summary.metrics.values() if found.method})
    return (
        f"Intervals ({', '.join(methods)}): {how.samples} resamples of {how.unit}s, seed "
        f"{how.seed}; rates exact, at the lesions' effective number. "
        f"{_counted(summary.n_missed)}. {summary.n_empty_truth} without hemorrhage counted "
        f"apart, {summary.n_false_positive} of them false positive."
    )


def _counted(missed: int) -> str:
    scans = "1 missed scan counts" if missed == 1 else f"{missed} missed scans count"
    return f"{scans} with Dice 0 and the scan's diagonal"


def _strata_table(name: str, summary: Summary) -> Table:
    metrics = [
        row
        for row in averaged(summary.rows)
        if (row.section in _STRATA_SECTIONS or row.key in _ALSO_IN_STRATA)
        and row.key in summary.metrics
    ]
    rows = []
    for grouping, strata in summary.strata.items():
        unit = " mL" if grouping == "volume" else ""
        for stratum, found in strata.items():
            cells = [_estimate_text(found.metrics[metric.key], metric) for metric in metrics]
            rows.append([f"{grouping} {stratum}{unit}", str(found.n), *cells])

    # Agreement of volumes stands once below, over all strata.
    agreement = summary.agreement
    caption = (
        f"Volumes: bias {format_number(agreement.bias_ml, 4)} mL, limits of agreement "
        f"[{format_number(agreement.loa_low_ml, 4)}, {format_number(agreement.loa_high_ml, 4)}] "
        f"mL, concordance {format_number(agreement.ccc, 4)} ({agreement.n} scans)."
    )
    return Table(
        f"{name}: strata",
        ["stratum", "scans", *(metric.heading for metric in metrics)],
        rows,
        caption=caption,
        right=frozenset({"scans"}),
        n_named=2,
    )


def _estimate_text(found: Interval, metric: Metric) -> str:
    if not math.isfinite(found.mean):
        return format_number(found.mean, metric.digits)
    return f"{format_number(found.mean, metric.digits)} {interval_text(found, metric.digits)}"


def _comparison_tables(comparison: Comparison) -> list[Table]:
    where = f"{comparison.n_scans} scans of {comparison.n_patients} patients"
    tables = [
        _pairs_table(
            f"Differences on {where}",
            comparison.pairs,
            comparison,
            "A scan without a mask counts as missed. ",
        )
    ]
    if comparison.complete_case:
        whole = comparison.n_scans - len(comparison.without_mask)
        tables.append(
            _pairs_table(
                f"Complete cases: differences on the {whole} scans that every run has a mask of",
                comparison.complete_case,
                comparison,
                "Leaves out what a run failed on: read it beside the table above. ",
            )
        )
    if comparison.by_class:
        tables.append(
            _pairs_table(
                f"Differences class by class on {where}",
                comparison.by_class,
                comparison,
                "On the scans that have the class. Holm also over the classes. ",
            )
        )
    return [*tables, _ranking_table(comparison)]


def _pairs_table(
    title: str, pairs: Sequence[PairedDifference], comparison: Comparison, note: str
) -> Table:
    confidence = f"{comparison.confidence * 100:g} % interval"
    numbers = ("difference", confidence, "p", "p Holm", "p Wilcoxon", "Holm", "n")
    rows = []
    for pair in pairs:
        # Digits and heading of the metric, the class behind it where there are several.
        row = comparison.row(pair.metric)
        rows.append(
            [
                f"{row.heading}, {pair.label_class}" if pair.label_class else row.heading,
                f"{pair.a} - {pair.b}",
                format_number(pair.difference, row.digits),
                format_interval(pair.ci_low, pair.ci_high, row.digits, _few(pair)),
                format_p(pair.p_bootstrap),
                format_p(pair.p_bootstrap_holm),
                format_p(pair.p_wilcoxon),
                format_p(pair.p_wilcoxon_holm),
                str(pair.n),
            ]
        )
    return Table(
        title,
        ["metric", "runs", *numbers],
        rows,
        caption=f"{note}Paired, patient by patient. Interval and p by one bootstrap-t: the "
        f"interval excludes 0 exactly where p < {1 - comparison.confidence:.2g}. Holm: adjusted "
        "for all pairs of runs in a metric.",
        right=frozenset(numbers),
        n_named=2,
    )


def _few(pair: PairedDifference) -> str:
    return "too few" if pair.n else ""


def _ranking_table(comparison: Comparison) -> Table:
    confidence = f"{comparison.confidence * 100:g} % of ranks"
    metric = comparison.row(comparison.ranked_by)
    rows = [
        [
            f"{rank.rank:g}",
            rank.run,
            format_number(rank.mean, metric.digits),
            f"{rank.rank_low:g} to {rank.rank_high:g}",
            f"{rank.p_best:.0%}",
        ]
        for rank in comparison.ranking
    ]
    columns = ["rank", "run", f"mean {metric.heading}", confidence, "first in"]
    return Table(
        "Ranking",
        columns,
        rows,
        caption="Ranks over resamples of the patients.",
        right=frozenset(columns) - {"run"},
    )
