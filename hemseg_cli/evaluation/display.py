"""The tables that `hemseg evaluate` shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from hemseg_cli.console import Table

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


def evaluation_tables(runs: Sequence[tuple[str, Mapping[str, Any]]], comparison: Mapping[str, Any] | None) -> tuple[Table, ...]:
    """One table of metrics per run (name, summary)."""
    del comparison
    return tuple(_metrics_table(name, summary) for name, summary in runs)


def _metrics_table(name: str, summary: Mapping[str, Any]) -> Table:
    confidence = f"{summary['bootstrap']['confidence'] * 100:g} % interval"
    rows = [[title(metric), number(found["mean"]), interval(found), str(found["n"])] for metric, found in summary["metrics"].items()]
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
    lines = [f"{bootstrap['samples']} {bootstrap['method']} bootstrap resamples of {bootstrap['unit']}s, seed {bootstrap['seed']}."]
    if summary["protocol"] == "native":
        lines.append(
            f"HD95: larger of the two directed 95th percentiles; {summary['n_missed']} missed scans count with the scan's diagonal. "
            f"{summary['n_empty_truth']} scans without hemorrhage are counted apart, {summary['n_false_positive']} of them false positive."
        )
    else:
        lines.append(f"{summary['n_missed']} missed scans; HD95 in voxels without undefined cases (n), as the published table was made.")
    return " ".join(lines)


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
