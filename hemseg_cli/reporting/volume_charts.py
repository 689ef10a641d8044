"""Charts of volumes: Dice against true volume, and Bland and Altman's plot."""

from collections.abc import Sequence
from typing import Any

from hemseg_cli.evaluation.agreement import volume_agreement
from hemseg_cli.reporting.chart import Figure, colour, legend, plotly_text, points
from hemseg_cli.reporting.results import CaseResult, RunResults


def volume_pairs(run: RunResults) -> list[tuple[CaseResult, float, float]]:
    """Return the scans with both volumes: (scan, truth mL, predicted mL)."""
    pairs = []
    for case in run.cases:
        truth, predicted = case.number("truth_ml"), case.number("predicted_ml")
        if truth is not None and predicted is not None:
            pairs.append((case, truth, predicted))
    return pairs


def dice_against_volume(runs: Sequence[RunResults]) -> Figure | None:
    """Draw the Dice of every scan over its true volume, log scale."""
    traces = []
    for n, run in enumerate(runs):
        found = [
            (case.scan, truth, value)
            for case in run.cases
            if (truth := case.number("truth_ml")) is not None
            and truth > 0
            and (value := case.number("dice")) is not None
        ]
        if found:
            traces.append(points(run, n, found, "%{text}<br>%{x:.2f} mL<br>Dice %{y:.3f}"))
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
        layout | legend(runs),
    )


def bland_altman(runs: Sequence[RunResults]) -> Figure | None:
    """Draw the difference of the volumes over their mean, with bias and limits of agreement.

    With several runs the first is shown, the others wait in the legend.
    """
    traces: list[dict[str, Any]] = []
    for n, run in enumerate(runs):
        pairs = volume_pairs(run)
        if not pairs:
            continue
        shown: bool | str = True if n == 0 else "legendonly"
        found = [
            (case.scan, (truth + predicted) / 2, predicted - truth)
            for case, truth, predicted in pairs
        ]
        traces.append(
            points(run, n, found, "%{text}<br>mean %{x:.2f} mL<br>difference %{y:.2f} mL")
            | {"visible": shown}
        )
        limits = volume_agreement(
            [truth for _, truth, _ in pairs], [predicted for _, _, predicted in pairs]
        )
        if limits.n > 1:
            ends = [min(x for _, x, _ in found), max(x for _, x, _ in found)]
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
    alt = (
        "Bland-Altman: difference of predicted and true volume over their mean, with bias and "
        "1.96 SD limits"
    )
    return Figure(
        "bland_altman", "Volume agreement (Bland\u2013Altman)", alt, traces, layout | legend(runs)
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
