"""Cross-validation in one command: a training for each fold, each in a run of its own."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.run_directory import fold_name, mark_ensemble_latest
from hemseg_cli.training.distributed import announced_rank
from hemseg_cli.training.train import TrainResult, train


@dataclass(frozen=True)
class FoldsResult:
    """The trainings of all folds, in order."""

    folds: tuple[TrainResult, ...]

    @property
    def failed(self) -> bool:
        """Never: a training that could not be done raises."""
        return False

    @property
    def mean_best_dice(self) -> float:
        """Return the mean over the folds of the best mean Dice of each validation split."""
        return sum(fold.best_dice for fold in self.folds) / len(self.folds)

    @property
    def next_command(self) -> str:
        """Return the command that predicts with the ensemble of all folds."""
        return f"hemseg predict --run {self.folds[0].run.name.rpartition('-fold')[0]}"

    def payload(self) -> dict[str, Any]:
        """Return the result of each fold, and their mean."""
        return {
            "folds": [fold.payload() for fold in self.folds],
            "mean_best_dice": self.mean_best_dice,
            "next": self.next_command,
        }

    def tables(self) -> list[console.Table]:
        """Return the table of each fold, and one of all."""
        summary = console.Table(
            "Folds",
            ["folds", "mean val Dice"],
            [[str(len(self.folds)), f"{self.mean_best_dice:.4f}"]],
            caption=f"next: {self.next_command}",
        )
        return [*(table for fold in self.folds for table in fold.tables()), summary]


def train_folds(config: Config, *, run: str | None = None, resume: bool = False) -> FoldsResult:
    """Train one fold after the other, in the runs `<run>-fold0`, `<run>-fold1`, ...

    At the end `latest` names the run of all folds, `<run>-ensemble`.
    `resume`: folds that are done are left as they are, those that have not begun begin. UsageError
    where `resume` does not say of which run.
    """
    if resume and run is None:
        raise UsageError(
            "--fold all --resume: which run?", hint="--run NAME, without the -fold0 of its folds"
        )
    name = run or f"{config.train.model.rpartition(':')[2]}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    results = []
    for fold in range(config.train.folds):
        part = config.model_copy(update={"train": config.train.model_copy(update={"fold": fold})})
        # With `resume`, a fold that is done gives its result, and one without a run begins.
        results.append(train(part, run=fold_name(name, fold), keep_finished=resume))

    # What `predict`, `evaluate` and `report` take by themselves is all folds, not the last one.
    if not announced_rank():
        mark_ensemble_latest(config.runs.root, name)
    return FoldsResult(tuple(results))
