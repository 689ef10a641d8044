"""Charts of the training history."""

from collections.abc import Sequence
from typing import Any

from hemseg_cli.reporting.chart import LEGEND, Figure, colour, legend, plotly_text
from hemseg_cli.reporting.results import RunResults


def training(runs: Sequence[RunResults]) -> list[Figure]:
    """Draw loss and validation Dice per epoch, as far as the runs have them."""
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
            "legend": LEGEND,
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
        } | legend(runs)
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
