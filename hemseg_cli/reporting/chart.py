"""What the charts of the page have in common: two widths, names, the legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hemseg_cli.core.printable import printable
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.svg import RUN_COLOURS, Plot, draw_svg

WIDE_PX, NARROW_PX = 600, 350  # of a column on a desk, and of a phone
_LONGEST_NAME = 22  # characters


@dataclass(frozen=True)
class Key:
    """An entry of a legend: the run that it shows and hides, and how the run is drawn.

    `dashed`: drawn as dashes; `shown`: whether it is seen at first.
    """

    name: str
    run: int
    dashed: bool = False
    shown: bool = True

    @property
    def colour(self) -> int:
        """The number of the run's colour."""
        return self.run % RUN_COLOURS


@dataclass(frozen=True)
class Chart:
    """One chart: `key` names its place on the page, `alt` says in words what it shows.

    `wide` and `narrow` are the same chart as SVG, for a desk and for a phone.
    """

    key: str
    title: str
    alt: str
    wide: str
    narrow: str
    legend: tuple[Key, ...] = ()


def draw_chart(
    key: str,
    title: str,
    alt: str,
    draw: Callable[[Plot], None],
    *,
    height: int = 300,
    legend: Sequence[Key] = (),
) -> Chart:
    """Draw a chart at both widths. `height`: pixels at either width."""
    wide, narrow = (
        draw_svg(draw, width=width, height=height, salt=f"{key}-{width}", label=alt)
        for width in (WIDE_PX, NARROW_PX)
    )
    return Chart(key, title, alt, wide, narrow, tuple(legend))


def short_name(name: str) -> str:
    """Return a name that leaves room for the chart on a phone."""
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026"


def legend(runs: Sequence[RunResults], *, first_only: bool = False) -> tuple[Key, ...]:
    """Return a legend of the runs where there are several; `first_only`: the others are hidden."""
    if len(runs) < 2:
        return ()
    return tuple(Key(run.name, n, shown=n == 0 or not first_only) for n, run in enumerate(runs))
