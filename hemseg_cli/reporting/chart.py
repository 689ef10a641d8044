"""What the charts of the page have in common: colours, names, points, the legend.

A colour is the name of a CSS property of the page, `var(--run-0)`: the page's script puts in what
it stands for, so that the charts follow the page from light to dark. Text that plotly would read as
markup is escaped here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hemseg_cli.reporting.results import RunResults

RUN_COLOURS = 8  # how many colours the page has for runs
_LONGEST_NAME = 22  # characters


@dataclass(frozen=True)
class Figure:
    """One chart: `key` names its place on the page, `alt` says in words what it shows."""

    key: str
    title: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320


def plotly_text(text: str) -> str:
    """Return text that plotly shows as it is: its pseudo-HTML knows tags, links and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def colour(index: int) -> str:
    """Return the colour of the run at that place; the ninth takes the first's again."""
    return f"var(--run-{index % RUN_COLOURS})"


def points(
    run: RunResults, n: int, found: Sequence[tuple[str, float, float]], hover: str
) -> dict[str, Any]:
    """Return a trace of one point per scan: (scan, x, y)."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(run.name),
        "legendgroup": str(n),
        "x": [x for _, x, _ in found],
        "y": [y for _, _, y in found],
        "text": [plotly_text(scan) for scan, _, _ in found],
        "customdata": [scan for scan, _, _ in found],
        "marker": {"color": colour(n), "size": 8, "opacity": 0.75},
        "hovertemplate": f"{hover}<extra></extra>",
    }


def short_name(name: str) -> str:
    """Return a name that leaves room for the chart on a phone."""
    return plotly_text(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026")


LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def legend(runs: Sequence[RunResults]) -> dict[str, Any]:
    """Return the layout's part that shows a legend where there are several runs."""
    return {"showlegend": len(runs) > 1, "legend": LEGEND}
