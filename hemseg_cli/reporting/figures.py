"""The charts of the page, as plotly specifications in plain values: overview and distributions."""

from collections.abc import Sequence
from typing import Any

from hemseg_cli.evaluation.bootstrap import SIZE
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.reporting.chart import Figure, colour, plotly_text, short_name
from hemseg_cli.reporting.class_tables import dice_by_class
from hemseg_cli.reporting.content import shows_published
from hemseg_cli.reporting.interval_bars import interval_bars
from hemseg_cli.reporting.published import PUBLISHED, Estimate
from hemseg_cli.reporting.results import RunResults, estimate_of
from hemseg_cli.reporting.training_charts import training
from hemseg_cli.reporting.volume_charts import bland_altman, dice_against_volume


def figures(runs: Sequence[RunResults]) -> list[Figure]:
    """Return every chart for which the runs have the numbers."""
    made = [
        _forest(runs),
        *(_distribution(runs, row) for row in _distributed(runs)),
        dice_against_volume(runs),
        bland_altman(runs),
        _strata(runs),
        dice_by_class(runs),
        *training(runs),
    ]
    return [figure for figure in made if figure is not None]


def _forest(runs: Sequence[RunResults]) -> Figure | None:
    """Draw mean Dice with its interval, runs above the published systems."""
    rows = [(run.name, run.estimate("dice"), colour(n), "circle") for n, run in enumerate(runs)]
    if shows_published(runs):
        rows += [
            (f"{row.name} (published)", row.dice, "var(--muted)", "diamond") for row in PUBLISHED
        ]
    traces = [
        _forest_trace(name, estimate, line, symbol)
        for name, estimate, line, symbol in rows
        if estimate and estimate.mean is not None
    ]
    names = [trace["y"][0] for trace in traces]
    layout = {
        "xaxis": {"title": {"text": "Mean Dice"}, "range": [0, 1.02]},
        "yaxis": {
            "autorange": "reversed",
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names,
            "automargin": True,
        },
        "showlegend": False,
    }
    return Figure(
        "forest",
        "Dice beside the published systems" if shows_published(runs) else "Mean Dice",
        "Mean Dice and interval per system",
        traces,
        layout,
        90 + 26 * len(traces),
    )


def _forest_trace(name: str, estimate: Estimate, line: str, symbol: str) -> dict[str, Any]:
    mean = estimate.mean or 0.0
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": [mean],
        "y": [short_name(name)],
        "marker": {"color": line, "size": 9, "symbol": symbol},
        "hovertemplate": f"{plotly_text(name)}<br>%{{x:.4f}}<extra></extra>",
    }
    if estimate.low is not None and estimate.high is not None:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [estimate.high - mean],
            "arrayminus": [mean - estimate.low],
            "color": line,
            "thickness": 2,
            "width": 4,
        }
        trace["hovertemplate"] = (
            f"{plotly_text(name)}<br>%{{x:.4f}} "
            f"[{estimate.low:.4f}, {estimate.high:.4f}]<extra></extra>"
        )
    return trace


def _strata(runs: Sequence[RunResults]) -> Figure | None:
    """Draw mean Dice with its interval by true volume."""
    return interval_bars(
        runs,
        lambda run: [
            (name, estimate_of(stratum.metrics.get("dice")))
            for name, stratum in run.strata("volume").items()
        ],
        key="strata",
        title="Dice by hemorrhage size",
        alt="Mean Dice and interval by true volume",
        axis="True volume (mL)",
        unit=" mL",
    )


def _distributed(runs: Sequence[RunResults]) -> list[Metric]:
    """Return the metrics of segmentation; IoU is left out, for it is a function of Dice."""
    rows = {row.key: row for run in runs for row in run.rows if row.section == "segmentation"}
    return [row for row in rows.values() if row.key != "iou"]


def _distribution(runs: Sequence[RunResults], row: Metric) -> Figure | None:
    """Draw a box per run with every scan as a point beside it."""
    metric, title = row.key, row.heading
    traces = []
    for n, run in enumerate(runs):
        values = [
            (case.scan, value) for case in run.cases if (value := case.number(metric)) is not None
        ]
        if values:
            traces.append(
                {
                    "type": "box",
                    "name": short_name(run.name),
                    "x": [value for _, value in values],
                    "text": [plotly_text(scan) for scan, _ in values],
                    "customdata": [scan for scan, _ in values],
                    "orientation": "h",
                    "boxpoints": "all",
                    "jitter": 0.5,
                    "pointpos": 0,
                    "fillcolor": "rgba(0,0,0,0)",
                    "line": {"color": colour(n), "width": 1.5},
                    "marker": {"color": colour(n), "size": 6, "opacity": 0.6},
                    "hovertemplate": f"%{{text}}<br>{title} %{{x:.3f}}<extra></extra>",
                    "hoveron": "points",
                }
            )
    if not traces:
        return None
    x_axis: dict[str, Any] = {"title": {"text": title}}
    if row.bounds is not None and row.bounds != SIZE:
        x_axis["range"] = [row.bounds[0] - 0.02, row.bounds[1] + 0.02]
    else:
        x_axis["rangemode"] = "tozero"
    y_axis = {"autorange": "reversed", "automargin": True, "showticklabels": len(runs) > 1}
    layout = {"xaxis": x_axis, "yaxis": y_axis, "showlegend": False}
    return Figure(
        metric,
        title,
        f"{title} of every scan, with median and quartiles",
        traces,
        layout,
        130 + 48 * len(traces),
    )
