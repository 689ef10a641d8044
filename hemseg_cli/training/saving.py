"""Open, fill and tidy the run directory of a training."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hemseg_cli.config import Config, dump, validate_file
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.core.run_directory import (
    ENSEMBLE,
    RunDirectory,
    create_run,
    discard_run,
    mark_latest,
    open_run,
)
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.environment import environment, write_environment
from hemseg_cli.training.history import write_history
from hemseg_cli.training.loop import EpochDone
from hemseg_cli.training.state import TrainState, check_resumable, load_last, save_last
from hemseg_cli.training.validation import predict_settings


@dataclass(frozen=True)
class FoundRun:
    """A run that was begun before, with its `last.pt`, read once."""

    directory: RunDirectory
    last: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether every epoch is done; tuning and calibration may still be to do."""
        return bool(self.last["progress"]["finished"])

    def is_extended_by(self, config: Config) -> bool:
        """Whether the run is finished, and more epochs are asked for than it was trained for."""
        return config.train.epochs > int(self.last["config"]["train"]["epochs"])

    def is_tuned(self) -> bool:
        """Whether the settings of prediction have been chosen, or are not to be."""
        if self.last["config"]["train"].get("choose") == "none":
            return True
        return bool(read_checkpoint(self.directory.checkpoint("best")).get("tuned"))

    def is_calibrated(self) -> bool:
        """Whether the volumes have been calibrated, or are not to be."""
        if not self.last["config"]["train"].get("calibrate"):
            return True
        return "calibration" in read_checkpoint(self.directory.checkpoint("best"))


def find_run(config: Config, name: str | None, *, resume: bool) -> FoundRun | None:
    """Find the run to go on with: with `resume`, or where the named one was begun before.

    HemsegError if it was trained with another configuration, or another process holds it.
    """
    if resume:
        directory = run_to_resume(config, name)
    else:
        directory = RunDirectory(config.runs.root / str(name))
        if name is None or not directory.checkpoint("last").exists():
            return None

    # A run that is being trained is refused with the other's process id, not read half-way.
    with directory.lock():
        last = load_last(directory)
    check_resumable(directory, last, config, longer=resume)
    return FoundRun(directory, last)


def run_to_resume(config: Config, name: str | None) -> RunDirectory:
    """Open the run that `--resume` means; UsageError where that is a whole cross-validation."""
    run = open_run(config.runs.root, name)
    if run.folds:
        stem = run.name.removesuffix(ENSEMBLE)
        raise UsageError(
            f"--resume: {stem} is a cross-validation of {len(run.folds)} folds",
            hint=f"hemseg train --fold all --folds {len(run.folds)} --resume --run {stem}",
        )
    return run


def finished_error(
    run: RunDirectory, epochs: int, best_epoch: int | None, *, resume: bool
) -> HemsegError:
    """The error that refuses to train a finished run any further."""
    if not resume:
        return UsageError(
            f"run {run.name} has been trained already",
            hint=f"hemseg predict --run {run.name}   uses it; another --run trains another one",
        )
    return HemsegError(
        f"run {run.name} is finished: {epochs} epochs, best epoch {best_epoch}",
        hint=f"hemseg predict --run {run.name}   uses it; "
        "--resume --epochs MORE   trains it longer",
    )


@contextlib.contextmanager
def written_run(
    directory: RunDirectory, config: Config, device: torch.device, processes: Processes
) -> Iterator[None]:
    """Hold the run for this process, and note its configuration and environment.

    A new run that fails before its first checkpoint is removed: an empty one helps nobody. Only
    the main process writes.
    """
    if not processes.is_main:
        yield
        return
    resumed = directory.checkpoint("last").exists()
    with directory.lock():
        console.add_log_file(directory.log_file)
        try:
            remove_leftovers(directory.path)
            write_setup(directory, config, device, processes, resumed=resumed)
            yield
        except HemsegError:
            if not directory.is_trained:
                console.close_log_file()
                discard_run(directory)
            raise


def new_run(config: Config, name: str | None) -> RunDirectory:
    """Make the directory of a run that has not been begun."""
    return create_run(config.runs.root, model=config.train.model, name=name)


def write_setup(
    run: RunDirectory, config: Config, device: torch.device, processes: Processes, *, resumed: bool
) -> None:
    """Write the configuration of a new run, and add this start to its environment."""
    # A run that is extended has more epochs from here on.
    if not resumed or _epochs_of(run) not in (None, config.train.epochs):
        write_text(run.config_file, dump(config))
    write_environment(run.environment_file, environment(device, processes=processes.size))


def _epochs_of(run: RunDirectory) -> int | None:
    """The epochs that the run's configuration states, if it has one."""
    return validate_file(run.config_file).train.epochs if run.config_file.is_file() else None


class Saver:
    """Write checkpoints and history, in the main process alone.

    The first one is written after the first step that changed a weight, and makes the run `latest`.
    """

    def __init__(self, run: RunDirectory, state: TrainState, processes: Processes) -> None:
        self._run, self._state, self._writes = run, state, processes.is_main
        self._saved_at = time.monotonic()
        self._is_latest = False

    def step(self) -> None:
        """Save where it is time to."""
        first = not self._is_latest and self._state.progress.step > 0
        due = time.monotonic() - self._saved_at >= 60 * self._state.config.train.save_minutes
        if first or due:
            self.save()

    def epoch(self, event: EpochDone) -> None:
        """Save the best epoch for prediction, and the state where it is time to."""
        if not self._writes:
            return
        if event.best:
            self._state.predict = predict_settings(self._state)
            best = self._state.prediction_checkpoint()
            write_checkpoint(self._run.checkpoint("best"), best)
        if event.best or self._state.progress.finished:
            self.save()
        else:
            self.step()
        write_history(self._run.history_file, self._state.progress.history)

    def save(self) -> None:
        """Save the state that training goes on from."""
        self._saved_at = time.monotonic()
        if not self._writes:
            return
        save_last(self._run, self._state.resume_checkpoint())
        write_history(self._run.history_file, self._state.progress.history)
        if not self._is_latest:
            mark_latest(self._run)
            self._is_latest = True
