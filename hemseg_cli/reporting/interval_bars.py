"""Mean Dice with its interval, a bar for each part of the scans or of the classes."""

from collections.abc import Callable, Sequence

from hemseg_cli.core.printable import printable
from hemseg_cli.reporting.chart import Chart, draw_chart, legend
from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.svg import COLOURS, Plot, run_colour

_GROUP = 0.6  # share of a part's room that its bars take


def interval_bars(
    runs: Sequence[RunResults],
    parts: Callable[[RunResults], Sequence[tuple[str, Estimate | None]]],
    *,
    key: str,
    title: str,
    alt: str,
    axis: str,
    unit: str = "",
) -> Chart | None:
    """Draw the mean Dice of each part of each run; None where no part has one.

    `parts`: the run's parts by name. `axis`: the title of the names' axis. `unit`: stands behind
    each name.
    """
    known = [
        [(printable(name), found) for name, found in parts(run) if found and found.mean is not None]
        for run in runs
    ]
    names = list(dict.fromkeys(name for one in known for name, _ in one))
    if not names:
        return None

    def draw(plot: Plot) -> None:
        for n, found in enumerate(known):
            # The runs' bars of a part stand side by side around its place.
            width = _GROUP / len(runs)
            shift = (n - (len(runs) - 1) / 2) * width
            places = [names.index(name) + shift for name, _ in found]
            _draw_bars(plot, n, places, width, found, unit)
        plot.axes.set_xticks(range(len(names)), labels=names)
        plot.axes.set_xlim(-0.6, len(names) - 0.4)
        plot.axes.set_ylim(0, 1.02)
        plot.axes.grid(visible=False, axis="x")
        plot.axes.set_xlabel(axis)
        plot.axes.set_ylabel("Mean Dice")

    return draw_chart(key, title, alt, draw, legend=legend(runs))


def _draw_bars(
    plot: Plot,
    run: int,
    places: Sequence[float],
    width: float,
    found: Sequence[tuple[str, Estimate]],
    unit: str,
) -> None:
    """Draw one run's bars; an interval that is unknown has no line."""
    for place, (name, estimate) in zip(places, found, strict=True):
        mean = estimate.mean or 0.0
        tip = f"{name}{unit}\nDice {mean:.3f}"
        bar = plot.axes.bar(place, mean, width * 0.9, color=run_colour(run), alpha=0.85)
        if estimate.low is not None and estimate.high is not None:
            tip += f" [{estimate.low:.3f}, {estimate.high:.3f}]"
            line = plot.axes.vlines(
                place, estimate.low, estimate.high, color=COLOURS["text"], linewidth=1.2
            )
            plot.mark(line, run)
        plot.mark(bar.patches[0], run, [tip])
