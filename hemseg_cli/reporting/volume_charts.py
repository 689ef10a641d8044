"""Charts of volumes: Dice against true volume, and Bland and Altman's plot."""

from collections.abc import Sequence

from hemseg_cli.core.printable import printable
from hemseg_cli.evaluation.agreement import volume_agreement
from hemseg_cli.reporting.chart import Chart, draw_chart, legend
from hemseg_cli.reporting.results import CaseResult, RunResults
from hemseg_cli.reporting.svg import Plot, run_colour

_VOLUME_TICKS_ML = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


def volume_pairs(run: RunResults) -> list[tuple[CaseResult, float, float]]:
    """Return the scans with both volumes: (scan, truth mL, predicted mL)."""
    pairs = []
    for case in run.cases:
        truth, predicted = case.number("truth_ml"), case.number("predicted_ml")
        if truth is not None and predicted is not None:
            pairs.append((case, truth, predicted))
    return pairs


def dice_against_volume(runs: Sequence[RunResults]) -> Chart | None:
    """Draw the Dice of every scan over its true volume, log scale."""
    found = [
        [
            (case.scan, truth, value)
            for case in run.cases
            if (truth := case.number("truth_ml")) is not None
            and truth > 0
            and (value := case.number("dice")) is not None
        ]
        for run in runs
    ]
    volumes = [truth for points in found for _, truth, _ in points]
    if not volumes:
        return None

    def draw(plot: Plot) -> None:
        plot.axes.set_xscale("log")
        for n, points in enumerate(found):
            scans = [printable(scan) for scan, _, _ in points]
            plot.points(
                n,
                [x for _, x, _ in points],
                [y for _, _, y in points],
                [f"{scan}\n{x:.2f} mL\nDice {y:.3f}" for scan, x, y in points],
                scans=scans,
            )
        # The ticks that a radiologist reads, as far as there are scans.
        low, high = min(volumes) / 1.4, max(volumes) * 1.4
        ticks = [tick for tick in _VOLUME_TICKS_ML if low <= tick <= high]
        plot.axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        plot.axes.set_xticks([], minor=True)
        plot.axes.set_xlim(low, high)
        plot.axes.set_ylim(-0.03, 1.03)
        plot.axes.set_xlabel("True volume (mL)")
        plot.axes.set_ylabel("Dice")

    return draw_chart(
        "dice_volume",
        "Dice against true volume",
        "Dice of every scan over its true volume, log scale",
        draw,
        legend=legend(runs),
    )


def bland_altman(runs: Sequence[RunResults]) -> Chart | None:
    """Draw the difference of the volumes over their mean, with bias and limits of agreement.

    With several runs the first is shown, the others wait in the legend.
    """
    pairs = [volume_pairs(run) for run in runs]
    if not any(pairs):
        return None

    def draw(plot: Plot) -> None:
        for n, found in enumerate(pairs):
            _draw_agreement(plot, n, found)
        plot.axes.set_xlim(left=0)
        plot.axes.margins(y=0.12)
        plot.axes.set_xlabel("Mean of true and predicted volume (mL)")
        plot.axes.set_ylabel("Predicted \u2212 true (mL)")

    return draw_chart(
        "bland_altman",
        "Volume agreement (Bland\u2013Altman)",
        "Bland-Altman: difference of predicted and true volume over their mean, with bias and "
        "1.96 SD limits",
        draw,
        legend=legend(runs, first_only=True),
    )


def _draw_agreement(plot: Plot, run: int, found: Sequence[tuple[CaseResult, float, float]]) -> None:
    """Draw one run's scans, its bias and its limits."""
    if not found:
        return
    # Each scan is a point that opens it in the viewer.
    scans = [printable(case.scan) for case, _, _ in found]
    means = [(truth + predicted) / 2 for _, truth, predicted in found]
    differences = [predicted - truth for _, truth, predicted in found]
    tips = [
        f"{scan}\nmean {mean:.2f} mL\ndifference {_signed(difference)} mL"
        for scan, mean, difference in zip(scans, means, differences, strict=True)
    ]
    plot.points(run, means, differences, tips, scans=scans)

    # Limits of agreement need a spread, of one scan there is none.
    limits = volume_agreement([row[1] for row in found], [row[2] for row in found])
    if limits.n < 2:
        return
    for text, level, style in (
        ("bias", limits.bias_ml, "solid"),
        ("\u22121.96 SD", limits.loa_low_ml, "dashed"),
        ("+1.96 SD", limits.loa_high_ml, "dashed"),
    ):
        said = f"{text} {_signed(level)}"
        # From side to side of the chart, the words at its right end above the line.
        line = plot.axes.axhline(level, color=run_colour(run), linewidth=1.5, linestyle=style)
        plot.mark(line, run, [said])
        words = plot.axes.annotate(
            said,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=11,
        )
        plot.mark(words, run)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")
