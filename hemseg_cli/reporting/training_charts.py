"""Charts of the training history."""

from collections.abc import Sequence

from hemseg_cli.reporting.chart import Chart, Key, draw_chart, legend
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.svg import Plot, run_colour

_FEW_EPOCHS = 40  # so few are drawn as points too


def training(runs: Sequence[RunResults]) -> list[Chart]:
    """Draw loss and validation Dice per epoch, as far as the runs have them."""
    made = []
    if any(_curve(run, key) for run in runs for key in ("train_loss", "val_loss")):
        made.append(_losses(runs))
    if any(_curve(run, "val_dice") for run in runs):
        made.append(_dices(runs))
    return made


def _losses(runs: Sequence[RunResults]) -> Chart:
    """Draw training and validation loss, the latter dashed."""

    def draw(plot: Plot) -> None:
        for n, run in enumerate(runs):
            _draw_curve(plot, n, _curve(run, "train_loss"))
            _draw_curve(plot, n, _curve(run, "val_loss"), dashed=True)
        plot.axes.set_xlabel("Epoch")
        plot.axes.locator_params(axis="x", integer=True)
        plot.axes.set_ylabel("Loss")

    keys = []
    for n, run in enumerate(runs):
        before = f"{run.name} " if len(runs) > 1 else ""
        keys.append(Key(f"{before}training", n))
        if _curve(run, "val_loss"):
            keys.append(Key(f"{before}validation", n, dashed=True))
    alt = "Training and validation loss per epoch"
    return draw_chart("loss", "Training loss", alt, draw, legend=keys)


def _dices(runs: Sequence[RunResults]) -> Chart:
    def draw(plot: Plot) -> None:
        for n, run in enumerate(runs):
            _draw_curve(plot, n, _curve(run, "val_dice"))
        plot.axes.set_ylim(0, 1.02)
        plot.axes.set_xlabel("Epoch")
        plot.axes.locator_params(axis="x", integer=True)
        plot.axes.set_ylabel("Dice")

    alt = "Validation Dice per epoch"
    return draw_chart("val_dice", "Validation Dice", alt, draw, legend=legend(runs))


def _curve(run: RunResults, key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs that have the value."""
    rows = [(row.get("epoch"), row.get(key)) for row in run.history]
    return [(epoch, value) for epoch, value in rows if epoch is not None and value is not None]


def _draw_curve(
    plot: Plot, run: int, points: Sequence[tuple[float, float]], *, dashed: bool = False
) -> None:
    if not points:
        return
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    (line,) = plot.axes.plot(
        epochs, values, color=run_colour(run), linewidth=2, linestyle="dashed" if dashed else "-"
    )
    plot.mark(line, run)

    # A point to point at for each of few epochs: of hundreds they would be a second line.
    if len(points) <= _FEW_EPOCHS:
        tips = [f"epoch {epoch:g}\n{value:.4f}" for epoch, value in points]
        plot.points(run, epochs, values, tips, s=16, alpha=1)
