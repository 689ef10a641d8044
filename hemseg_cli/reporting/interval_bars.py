"""Mean Dice with its interval, a bar for each part of the scans or of the classes."""

from collections.abc import Callable, Sequence
from typing import Any

from hemseg_cli.reporting.chart import Figure, colour, legend, plotly_text
from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.results import RunResults


def interval_bars(
    runs: Sequence[RunResults],
    parts: Callable[[RunResults], Sequence[tuple[str, Estimate | None]]],
    *,
    key: str,
    title: str,
    alt: str,
    axis: str,
    unit: str = "",
) -> Figure | None:
    """Draw the mean Dice of each part of each run; None where no part has one.

    `parts`: the run's parts by name. `axis`: the title of the names' axis. `unit`: stands behind
    each name.
    """
    traces = []
    for n, run in enumerate(runs):
        known = [(name, found) for name, found in parts(run) if found and found.mean is not None]
        if known:
            traces.append(_bars(run.name, colour(n), known, unit))
    if not traces:
        return None

    layout = {
        "xaxis": {"title": {"text": axis}, "type": "category"},
        "yaxis": {"title": {"text": "Mean Dice"}, "range": [0, 1.02]},
        "barmode": "group",
        "bargap": 0.4,
    }
    return Figure(key, title, alt, traces, layout | legend(runs))


def _bars(name: str, fill: str, known: Sequence[tuple[str, Estimate]], unit: str) -> dict[str, Any]:
    """Return the trace of one run; an interval that is unknown has no length."""
    means = [found.mean or 0.0 for _, found in known]
    up, down = [], []
    for (_, found), mean in zip(known, means, strict=True):
        up.append((mean if found.high is None else found.high) - mean)
        down.append(mean - (mean if found.low is None else found.low))

    return {
        "type": "bar",
        "name": plotly_text(name),
        "x": [plotly_text(part) for part, _ in known],
        "y": means,
        "marker": {"color": fill, "opacity": 0.85},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": up,
            "arrayminus": down,
            "color": "var(--text)",
            "thickness": 1.2,
        },
        "hovertemplate": f"%{{x}}{unit}<br>Dice %{{y:.3f}}<extra></extra>",
    }
