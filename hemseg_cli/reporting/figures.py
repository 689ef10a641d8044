"""The charts of the page, as plotly specifications in plain values.

A colour is the name of a CSS property of the page, `var(--run-0)`: the page's script puts in what
it stands for, so that the charts follow the page from light to dark. Text that plotly would read as
markup is escaped here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hemseg_cli.evaluation.agreement import volume_agreement
from hemseg_cli.reporting.content import metric_columns, shows_published
from hemseg_cli.reporting.published import PUBLISHED, Estimate
from hemseg_cli.reporting.results import CaseResult, RunResults, estimate_of

RUN_COLOURS = 8
_LONGEST_NAME = 22


@dataclass(frozen=True)
class Figure:
    """One chart: `key` names its place on the page, `alt` says in words what it shows."""

    key: str
    title: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320


def figures(runs: Sequence[RunResults]) -> list[Figure]:
    """Every chart for which the runs have the numbers."""
    made = [
        _forest(runs),
        *(
            _distribution(runs, column.key, column.title)
            for column in metric_columns(runs)
            if column.key != "iou"
        ),
        _dice_against_volume(runs),
        _bland_altman(runs),
        _strata(runs),
        *_training(runs),
    ]
    return [figure for figure in made if figure is not None]


def plotly_text(text: str) -> str:
    """Text that plotly shows as it is: its pseudo-HTML knows tags, links and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def colour(index: int) -> str:
    """The colour of the run at that place; the ninth takes the first's again."""
    return f"var(--run-{index % RUN_COLOURS})"


def volume_pairs(run: RunResults) -> list[tuple[CaseResult, float, float]]:
    """The scans with both volumes: (scan, truth mL, predicted mL)."""
    pairs = []
    for case in run.cases:
        truth, predicted = case.number("truth_ml"), case.number("predicted_ml")
        if truth is not None and predicted is not None:
            pairs.append((case, truth, predicted))
    return pairs


def _forest(runs: Sequence[RunResults]) -> Figure | None:
    """Mean Dice with its interval, runs above the published systems."""
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
        "y": [_short(name)],
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
            f"{plotly_text(name)}<br>%{{x:.4f}} [{estimate.low:.4f}, {estimate.high:.4f}]<extra></extra>"
        )
    return trace


def _distribution(runs: Sequence[RunResults], metric: str, title: str) -> Figure | None:
    """A box per run with every scan as a point beside it."""
    traces = []
    for n, run in enumerate(runs):
        values = [
            (case.scan, value) for case in run.cases if (value := case.number(metric)) is not None
        ]
        if values:
            traces.append(
                {
                    "type": "box",
                    "name": _short(run.name),
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
    if not metric.startswith("hd95"):
        x_axis["range"] = [-0.02, 1.02]
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


def _dice_against_volume(runs: Sequence[RunResults]) -> Figure | None:
    traces = []
    for n, run in enumerate(runs):
        points = [
            (case.scan, truth, value)
            for case in run.cases
            if (truth := case.number("truth_ml")) is not None
            and truth > 0
            and (value := case.number("dice")) is not None
        ]
        if points:
            traces.append(_points(run, n, points, "%{text}<br>%{x:.2f} mL<br>Dice %{y:.3f}"))
    if not traces:
        return None
    layout = {
        "xaxis": {
            "title": {"text": "True volume (mL)"},
            "type": "log",
            "tickvals": [0.1, 0.3, 1, 3, 10, 30, 100],
            "ticks": "outside",
        },
        "yaxis": {"title": {"text": "Dice"}, "range": [-0.03, 1.03]},
    }
    return Figure(
        "dice_volume",
        "Dice against true volume",
        "Dice of every scan over its true volume, log scale",
        traces,
        layout | _legend(runs),
    )


def _bland_altman(runs: Sequence[RunResults]) -> Figure | None:
    """Difference of the volumes over their mean.

    With several runs the first is shown, the others wait in the legend.
    """
    traces: list[dict[str, Any]] = []
    for n, run in enumerate(runs):
        pairs = volume_pairs(run)
        if not pairs:
            continue
        shown: bool | str = True if n == 0 else "legendonly"
        points = [
            (case.scan, (truth + predicted) / 2, predicted - truth)
            for case, truth, predicted in pairs
        ]
        traces.append(
            _points(run, n, points, "%{text}<br>mean %{x:.2f} mL<br>difference %{y:.2f} mL")
            | {"visible": shown}
        )
        limits = volume_agreement(
            [truth for _, truth, _ in pairs], [predicted for _, _, predicted in pairs]
        )
        if limits.n > 1:
            ends = [min(x for _, x, _ in points), max(x for _, x, _ in points)]
            for text, level, dash in (
                ("bias", limits.bias_ml, "solid"),
                ("\u22121.96 SD", limits.loa_low_ml, "dash"),
                ("+1.96 SD", limits.loa_high_ml, "dash"),
            ):
                traces.append(_level(run, n, ends, level, text, dash) | {"visible": shown})
    if not traces:
        return None
    layout = {
        "xaxis": {
            "title": {"text": "Mean of true and predicted volume (mL)"},
            "rangemode": "tozero",
        },
        "yaxis": {"title": {"text": "Predicted \u2212 true (mL)"}, "zeroline": True},
    }
    alt = "Bland-Altman: difference of predicted and true volume over their mean, with bias and 1.96 SD limits"
    return Figure(
        "bland_altman", "Volume agreement (Bland\u2013Altman)", alt, traces, layout | _legend(runs)
    )


def _level(
    run: RunResults, n: int, ends: Sequence[float], level: float, text: str, dash: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": plotly_text(run.name),
        "legendgroup": str(n),
        "showlegend": False,
        "x": list(ends),
        "y": [level, level],
        "line": {"color": colour(n), "width": 1.5, "dash": dash},
        "text": [
            "",
            f"{text} {level:+.2f}".replace("-", "\u2212")
            + '<br><span style="font-size:4px"> </span>',
        ],
        "textposition": "top left",
        "textfont": {"size": 11},
        "hoverinfo": "skip",
    }


def _strata(runs: Sequence[RunResults]) -> Figure | None:
    """Mean Dice with its interval by true volume."""
    traces = []
    for n, run in enumerate(runs):
        rows = [
            (name, estimate)
            for name, stratum in run.strata("volume").items()
            if (estimate := estimate_of(stratum.metrics.get("dice"))) and estimate.mean is not None
        ]
        if rows:
            means = [estimate.mean or 0.0 for _, estimate in rows]
            up = [
                (estimate.high if estimate.high is not None else mean) - mean
                for (_, estimate), mean in zip(rows, means, strict=True)
            ]
            down = [
                mean - (estimate.low if estimate.low is not None else mean)
                for (_, estimate), mean in zip(rows, means, strict=True)
            ]
            traces.append(
                {
                    "type": "bar",
                    "name": plotly_text(run.name),
                    "x": [plotly_text(name) for name, _ in rows],
                    "y": means,
                    "marker": {"color": colour(n), "opacity": 0.85},
                    "error_y": {
                        "type": "data",
                        "symmetric": False,
                        "array": up,
                        "arrayminus": down,
                        "color": "var(--text)",
                        "thickness": 1.2,
                    },
                    "hovertemplate": "%{x} mL<br>Dice %{y:.3f}<extra></extra>",
                }
            )
    if not traces:
        return None
    layout = {
        "xaxis": {"title": {"text": "True volume (mL)"}, "type": "category"},
        "yaxis": {"title": {"text": "Mean Dice"}, "range": [0, 1.02]},
        "barmode": "group",
        "bargap": 0.4,
    }
    return Figure(
        "strata",
        "Dice by hemorrhage size",
        "Mean Dice and interval by true volume",
        traces,
        layout | _legend(runs),
    )


def _training(runs: Sequence[RunResults]) -> list[Figure]:
    losses: list[dict[str, Any]] = []
    dices: list[dict[str, Any]] = []
    for n, run in enumerate(runs):
        losses += _curves(
            run,
            n,
            (("train_loss", "training", "solid"), ("val_loss", "validation", "dot")),
            len(runs) > 1,
        )
        dices += _curves(run, n, (("val_dice", "validation", "solid"),), len(runs) > 1)
    made = []
    axis = {"title": {"text": "Epoch"}}
    if losses:
        layout = {
            "xaxis": axis,
            "yaxis": {"title": {"text": "Loss"}},
            "showlegend": True,
            "legend": _LEGEND,
        }
        made.append(
            Figure(
                "loss", "Training loss", "Training and validation loss per epoch", losses, layout
            )
        )
    if dices:
        layout = {
            "xaxis": axis,
            "yaxis": {"title": {"text": "Dice"}, "range": [0, 1.02]},
        } | _legend(runs)
        made.append(
            Figure("val_dice", "Validation Dice", "Validation Dice per epoch", dices, layout)
        )
    return made


def _curves(
    run: RunResults, n: int, wanted: Sequence[tuple[str, str, str]], named: bool
) -> list[dict[str, Any]]:
    curves = []
    for key, label, dash in wanted:
        points = [
            (row["epoch"], row[key])
            for row in run.history
            if row.get("epoch") is not None and row.get(key) is not None
        ]
        if points:
            curves.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(points) < 40 else "lines",
                    "name": f"{plotly_text(run.name)} {label}" if named else label,
                    "x": [epoch for epoch, _ in points],
                    "y": [value for _, value in points],
                    "line": {"color": colour(n), "width": 2, "dash": dash},
                    "marker": {"size": 4},
                    "hovertemplate": "epoch %{x}<br>%{y:.4f}<extra></extra>",
                }
            )
    return curves


def _points(
    run: RunResults, n: int, points: Sequence[tuple[str, float, float]], hover: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(run.name),
        "legendgroup": str(n),
        "x": [x for _, x, _ in points],
        "y": [y for _, _, y in points],
        "text": [plotly_text(scan) for scan, _, _ in points],
        "customdata": [scan for scan, _, _ in points],
        "marker": {"color": colour(n), "size": 8, "opacity": 0.75},
        "hovertemplate": f"{hover}<extra></extra>",
    }


_LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def _legend(runs: Sequence[RunResults]) -> dict[str, Any]:
    return {"showlegend": len(runs) > 1, "legend": _LEGEND}


def _short(name: str) -> str:
    """A name that leaves room for the chart on a phone."""
    return plotly_text(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026")
