"""The tables that `hemseg evaluate` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from hemseg_cli.core.console import Table

_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95, mm",
    "hd95_voxel": "HD95, voxels",
    "volume_error_ml": "volume error, mL",
    "abs_volume_error_ml": "absolute volume error, mL",
    "relative_volume_difference": "relative volume difference",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
    "lesion_f1": "lesion F1",
}


def evaluation_tables(
    runs: Sequence[tuple[str, Mapping[str, Any]]], comparison: Mapping[str, Any] | None
) -> tuple[Table, ...]:
    """One table of metrics per run (name, summary) and one of its strata.

    With several runs their differences and ranking.
    """
    tables = [
        table
        for name, summary in runs
        for table in (_metrics_table(name, summary), _strata_table(name, summary))
    ]
    if comparison is not None:
        tables += [_pairs_table(comparison), _ranking_table(comparison)]
    return tuple(tables)


def _strata_table(name: str, summary: Mapping[str, Any]) -> Table:
    metrics = [
        metric
        for metric in summary["metrics"]
        if metric in ("dice", "hd95_mm", "hd95_voxel", "lesion_sensitivity")
    ]
    rows = []
    for grouping, strata in summary["strata"].items():
        unit = " mL" if grouping == "volume" else ""
        for stratum, found in strata.items():
            cells = [
                f"{number(found[metric]['mean'])} {interval(found[metric])}" for metric in metrics
            ]
            rows.append([grouping, f"{stratum}{unit}", str(found["n"]), *cells])
    agreement = summary["agreement"]
    caption = (
        f"Volumes: bias {number(agreement['bias_ml'])} mL, limits of agreement [{number(agreement['loa_low_ml'])}, "
        f"{number(agreement['loa_high_ml'])}] mL, concordance {number(agreement['ccc'])} ({agreement['n']} scans)."
    )
    return Table(
        f"{name}: strata",
        ["by", "stratum", "scans", *map(title, metrics)],
        rows,
        caption=caption,
        right=frozenset({"scans"}),
    )


def _pairs_table(comparison: Mapping[str, Any]) -> Table:
    confidence = f"{comparison['confidence'] * 100:g} % interval"
    rows = [
        [
            title(pair["metric"]),
            f"{pair['a']} - {pair['b']}",
            number(pair["difference"]),
            interval(pair),
            _p_value(pair["p_bootstrap_holm"]),
            _p_value(pair["p_wilcoxon_holm"]),
        ]
        for pair in comparison["pairs"]
    ]
    return Table(
        f"Differences on {comparison['n_scans']} scans of {comparison['n_patients']} patients",
        ["metric", "runs", "difference", confidence, "p bootstrap", "p Wilcoxon"],
        rows,
        caption="Paired, patient by patient; p values two-sided and Holm-corrected over the pairs of a metric.",
        right=frozenset({"difference", confidence, "p bootstrap", "p Wilcoxon"}),
    )


def _ranking_table(comparison: Mapping[str, Any]) -> Table:
    confidence = f"{comparison['confidence'] * 100:g} % of ranks"
    rows = [
        [
            f"{rank['rank']:g}",
            rank["run"],
            number(rank["mean"]),
            f"{rank['rank_low']:g} to {rank['rank_high']:g}",
            f"{rank['p_best']:.0%}",
        ]
        for rank in comparison["ranking"]
    ]
    columns = ["rank", "run", f"mean {title(comparison['ranked_by'])}", confidence, "first in"]
    return Table(
        "Ranking",
        columns,
        rows,
        caption="Ranks over resamples of the patients.",
        right=frozenset(columns) - {"run"},
    )


def _metrics_table(name: str, summary: Mapping[str, Any]) -> Table:
    confidence = f"{summary['bootstrap']['confidence'] * 100:g} % interval"
    rows = [
        [title(metric), number(found["mean"]), interval(found), str(found["n"])]
        for metric, found in summary["metrics"].items()
    ]
    split = f", split {summary['split']}" if summary["split"] else ""
    return Table(
        f"{name}{split}, {summary['protocol']} protocol, {summary['n_cases']} scans",
        ["metric", "mean", confidence, "n"],
        rows,
        caption=_caption(summary),
        right=frozenset({"mean", confidence, "n"}),
    )


def _caption(summary: Mapping[str, Any]) -> str:
    bootstrap = summary["bootstrap"]
    lines = [
        f"{bootstrap['samples']} {bootstrap['method']} bootstrap resamples of {bootstrap['unit']}s, seed {bootstrap['seed']}."
    ]
    if summary["protocol"] == "native":
        lines.append(
            f"HD95: larger of the two directed 95th percentiles; {_counted(summary['n_missed'], 'missed scan')} with the scan's diagonal. "
            f"{summary['n_empty_truth']} without hemorrhage counted apart, {summary['n_false_positive']} of them false positive."
        )
    else:
        lines.append(
            f"{summary['n_missed']} missed; HD95 in voxels without undefined cases (n), as the published table was made."
        )
    return " ".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"1 {noun} counts" if count == 1 else f"{count} {noun}s count"


def title(metric: str) -> str:
    """A metric's name for a person."""
    if metric.startswith("nsd_"):
        return f"NSD at {metric.removeprefix('nsd_').removesuffix('mm')} mm"
    return _TITLES.get(metric, metric)


def number(value: float | None) -> str:
    """Four digits after the point below 10, else two; a dash where undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def interval(found: Mapping[str, Any]) -> str:
    """`[low, high]`, or a dash where undefined."""
    low, high = found["ci_low"], found["ci_high"]
    return "undefined" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
