"""The charts of the page: overview and distributions."""

from collections.abc import Sequence

from hemseg_cli.core.printable import printable
from hemseg_cli.evaluation.bootstrap import SIZE
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.reporting.chart import Chart, draw_chart, short_name
from hemseg_cli.reporting.class_tables import dice_by_class
from hemseg_cli.reporting.content import shows_published
from hemseg_cli.reporting.interval_bars import interval_bars
from hemseg_cli.reporting.published import PUBLISHED, Estimate
from hemseg_cli.reporting.results import RunResults, estimate_of
from hemseg_cli.reporting.svg import COLOURS, Plot, run_colour
from hemseg_cli.reporting.training_charts import training
from hemseg_cli.reporting.volume_charts import bland_altman, dice_against_volume

_GOLDEN_RATIO = 0.618  # its multiples modulo 1 lie evenly: points spread without chance


def charts(runs: Sequence[RunResults]) -> list[Chart]:
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
    return [chart for chart in made if chart is not None]


def _forest(runs: Sequence[RunResults]) -> Chart | None:
    """Draw mean Dice with its interval, runs above the published systems."""
    # Runs on top in their colours, the published systems below, muted.
    rows = [(run.name, run.estimate("dice"), run_colour(n), "o") for n, run in enumerate(runs)]
    if shows_published(runs):
        rows += [(f"{row.name} (published)", row.dice, COLOURS["muted"], "D") for row in PUBLISHED]
    known = [
        (printable(name), estimate, colour, symbol)
        for name, estimate, colour, symbol in rows
        if estimate and estimate.mean is not None
    ]

    def draw(plot: Plot) -> None:
        for row, (name, estimate, colour, symbol) in enumerate(known):
            _draw_estimate(plot, row, name, estimate, colour, symbol)
        plot.name_rows([short_name(name) for name, *_ in known])
        plot.axes.set_xlim(0, 1.02)
        plot.axes.set_xlabel("Mean Dice")

    return draw_chart(
        "forest",
        "Dice beside the published systems" if shows_published(runs) else "Mean Dice",
        "Mean Dice and interval per system",
        draw,
        height=70 + 26 * len(known),
    )


def _draw_estimate(
    plot: Plot, row: int, name: str, estimate: Estimate, colour: str, symbol: str
) -> None:
    """Draw a mean as a point and its interval, where there is one, as a line."""
    mean = estimate.mean or 0.0
    tip = f"{name}\n{mean:.4f}"
    if estimate.low is not None and estimate.high is not None:
        tip += f" [{estimate.low:.4f}, {estimate.high:.4f}]"
        plot.axes.hlines(row, estimate.low, estimate.high, color=colour, linewidth=2)
    plot.points(row, [mean], [row], [tip], color=colour, marker=symbol, alpha=1)


def _strata(runs: Sequence[RunResults]) -> Chart | None:
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


def _distribution(runs: Sequence[RunResults], row: Metric) -> Chart | None:
    """Draw a box per run with every scan as a point beside it."""
    found = [
        (
            n,
            run.name,
            [
                (case.scan, value)
                for case in run.cases
                if (value := case.number(row.key)) is not None
            ],
        )
        for n, run in enumerate(runs)
    ]
    found = [one for one in found if one[2]]
    if not found:
        return None

    def draw(plot: Plot) -> None:
        for place, (n, _, values) in enumerate(found):
            _draw_box(plot, n, place, row.heading, values)
        # One run needs no name beside its box: it stands in the title of the page.
        plot.name_rows([short_name(name) if len(runs) > 1 else "" for _, name, _ in found])
        plot.axes.set_xlabel(row.heading)
        if row.bounds is not None and row.bounds != SIZE:
            plot.axes.set_xlim(row.bounds[0] - 0.02, row.bounds[1] + 0.02)
        else:
            plot.axes.set_xlim(left=min(0.0, *(value for one in found for _, value in one[2])))

    return draw_chart(
        row.key,
        row.heading,
        f"{row.heading} of every scan, with median and quartiles",
        draw,
        height=110 + 48 * len(found),
    )


def _draw_box(
    plot: Plot, run: int, place: int, heading: str, values: Sequence[tuple[str, float]]
) -> None:
    """Draw median, quartiles and whiskers (1.5 of the quartiles' distance), and every scan."""
    numbers = [value for _, value in values]
    line = {"color": run_colour(run), "linewidth": 1.5}
    plot.axes.boxplot(
        numbers,
        orientation="horizontal",
        positions=[place],
        widths=0.6,
        showfliers=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops=line,
        manage_ticks=False,
    )
    shifts = [(n * _GOLDEN_RATIO) % 1 * 0.44 - 0.22 for n in range(len(numbers))]
    tips = [f"{printable(scan)}\n{heading} {value:.3f}" for scan, value in values]
    scans = [printable(scan) for scan, _ in values]
    spread = [place + shift for shift in shifts]
    plot.points(run, numbers, spread, tips, scans=scans, s=26, alpha=0.6)
