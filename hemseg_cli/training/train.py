"""Train one system into a run directory: follow the loop, show, save, and stop when asked to."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.predictor import torch_device
from hemseg_cli.models.registry import model_to_train
from hemseg_cli.training.data_sets import DataSetCases, check_contamination, data_set_cases
from hemseg_cli.training.device_size import say_memory, size_for_device
from hemseg_cli.training.display import Display
from hemseg_cli.training.distributed import Processes, process_group
from hemseg_cli.training.fine_tuning import read_start
from hemseg_cli.training.finishing import finish_run, stopped
from hemseg_cli.training.loader_workers import measured_workers
from hemseg_cli.training.loop import EpochDone, StepDone, run_epochs
from hemseg_cli.training.saving import (
    FoundRun,
    Saver,
    find_run,
    finished_error,
    new_run,
    written_run,
)
from hemseg_cli.training.scans import warn_of_contamination
from hemseg_cli.training.setup import (
    TrainSetup,
    check_network,
    make_setup,
    make_state,
    share_batch,
    use_device,
)
from hemseg_cli.training.signals import StopRequest, stop_requests
from hemseg_cli.training.state import TrainState, load_last
from hemseg_cli.training.tracking import Trackers, open_trackers


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    `best_dice`: mean Dice of the val split's whole scans at the best epoch.
    """

    run: RunDirectory
    model: str
    epochs: int
    best_epoch: int
    best_dice: float
    seconds: float

    @property
    def failed(self) -> bool:
        """Never: a training that could not be done raises."""
        return False

    def payload(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "run": str(self.run.path),
            "model": self.model,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "seconds": round(self.seconds, 1),
            "checkpoint": str(self.run.checkpoint("best")),
            "next": f"hemseg predict --run {self.run.name}",
        }

    def tables(self) -> list[console.Table]:
        """The result as a table, with the next command below it."""
        row = [
            str(self.run.path),
            self.model,
            str(self.epochs),
            str(self.best_epoch),
            f"{self.best_dice:.4f}",
            f"{self.seconds / 60:.1f}",
        ]
        columns = ["run", "model", "epochs", "best epoch", "val Dice", "minutes"]
        return [
            console.Table(
                "Trained",
                columns,
                [row],
                caption=f"next: hemseg predict --run {self.run.name}",
                right=frozenset(columns[2:]),
            )
        ]


def train(
    config: Config, *, run: str | None = None, resume: bool = False, keep_finished: bool = False
) -> TrainResult:
    """Train one system as `config.train` says, or do what is left of a run, by its family.

    `run`: name of the run directory below `runs.root` (None: a new one, or with `resume` the
    newest). One that was begun with the same configuration goes on where it stopped, with `resume`
    or without; of one that stopped while its prediction settings were chosen, these are chosen.
    `keep_finished`: a run with nothing left to do gives its result instead of an error.
    HemsegError if it cannot be done, Stopped if SIGTERM or Ctrl-C came and the state was saved.
    """
    family = model_to_train(config.train).family
    result: TrainResult = family.train(config, run=run, resume=resume, keep_finished=keep_finished)
    return result


def train_network(
    config: Config, *, run: str | None, resume: bool, keep_finished: bool = False
) -> TrainResult:
    """Train one of our networks (`Family.train`)."""
    check_network(config)
    parts = data_set_cases(config)

    device = torch_device(config.compute.device)
    with process_group(device.type) as processes:
        device = processes.device(device)
        use_device(config, device)
        config = size_for_device(share_batch(config, processes), device)

        # Every process reads the state that it resumes from; a refusal is the same in all.
        found = _find_run(config, run, processes, resume=resume)
        if found is not None and found.finished and not found.is_extended_by(config):
            return _complete(found, parts, device, processes, resume=resume, keep=keep_finished)

        # What can fail for the sake of the data or the network fails before a run is made.
        if found is None:
            check_contamination(config, parts)
            for part in parts:
                warn_of_contamination(part.config, part.cases)
        setup = make_setup(config, parts, device, processes)
        start = read_start(config) if found is None else None
        say_memory(config, device, processes, len(setup.classes))
        state = make_state(config, setup, device, processes, start)
        setup = measured_workers(state, setup, processes)
        if found is not None:
            _restore(state, found)
            directory = found.directory
        else:
            directory = processes.broadcast(lambda: new_run(config, run))
        with written_run(directory, config, device, processes):
            _train_to_the_end(directory, state, setup, processes)
            if processes.is_main:
                finish_run(directory, parts, device, seconds=state.progress.seconds)

    return _result(directory, config, vars(state.progress))


def _find_run(
    config: Config, name: str | None, processes: Processes, *, resume: bool
) -> FoundRun | None:
    """Find the run to go on with; the main process checks it, and each reads its state once."""
    found: FoundRun | None = None

    def find() -> RunDirectory | None:
        nonlocal found
        found = find_run(config, name, resume=resume)
        return None if found is None else found.directory

    directory = processes.broadcast(find)
    if directory is not None and found is None:
        found = FoundRun(directory, load_last(directory))
    return found


def _result(run: RunDirectory, config: Config, progress: Any) -> TrainResult:
    return TrainResult(
        run,
        config.train.model,
        int(progress["epoch"]),
        int(progress["best_epoch"]),
        float(progress["best_dice"]),
        float(progress["seconds"]),
    )


def _complete(
    found: FoundRun,
    parts: Sequence[DataSetCases],
    device: torch.device,
    processes: Processes,
    *,
    resume: bool,
    keep: bool,
) -> TrainResult:
    """Do what is left of a run whose epochs are done: choose its settings, calibrate it."""
    config = parts[0].config
    tuned, calibrated = found.is_tuned(), found.is_calibrated()
    if tuned and calibrated:
        if not keep:
            progress = found.last["progress"]
            raise finished_error(
                found.directory, progress["epoch"], progress["best_epoch"], resume=resume
            )
    elif processes.is_main:
        with written_run(found.directory, config, device, processes):
            seconds = float(found.last["progress"]["seconds"])
            finish_run(found.directory, parts, device, seconds=seconds, tuned=tuned)
    return _result(found.directory, config, found.last["progress"])


def _restore(state: TrainState, found: FoundRun) -> None:
    state.restore(found.last)
    progress = state.progress
    if progress.finished:
        # More epochs than the run had: the schedule goes on as that of the longer training.
        progress.finished, progress.stale = False, 0
    console.say(
        f"resuming run {found.directory.name} in epoch {progress.epoch + 1} "
        f"after {progress.batch} batches"
    )


def _train_to_the_end(
    run: RunDirectory, state: TrainState, setup: TrainSetup, processes: Processes
) -> None:
    """Follow the loop: show, save, and stop when a signal asks for it."""
    saver = Saver(run, state, processes)
    with stop_requests() as request, _display(run, state, setup, processes) as display:
        events = run_epochs(state, setup, processes, lambda: request.exit_code)
        with setup.loading.deaths_named(), contextlib.closing(events):
            for event in events:
                display.show(event)
                if isinstance(event, EpochDone):
                    saver.epoch(event)
                elif isinstance(event, StepDone):
                    saver.step()
                    _check_losses(state, run)
                if state.progress.finished:
                    continue

                # A step has asked the other processes already.
                stop = (
                    event.stop if isinstance(event, StepDone) else _stop_of_any(request, processes)
                )
                if stop is not None:
                    saver.save()
                    raise stopped(run, stop)


def _stop_of_any(request: StopRequest, processes: Processes) -> int | None:
    """The exit code of the first process that was asked to stop; None where none was."""
    codes = (code for code in processes.gather(request.exit_code) if code is not None)
    return next(codes, None)


def _check_losses(state: TrainState, run: RunDirectory) -> None:
    progress = state.progress
    if progress.bad_in_a_row == 0:
        return
    scans = sorted(set(progress.bad_scans))
    console.log.warning(
        "epoch %d batch %d: the loss is not finite; batch skipped (%s)",
        progress.epoch + 1,
        progress.batch,
        ", ".join(scans),
    )
    if progress.bad_in_a_row >= state.config.train.non_finite_batches:
        last = run.checkpoint("last")
        raise HemsegError(
            f"the loss was not finite in {progress.bad_in_a_row} batches in a row, "
            f"of the scans {', '.join(scans)}",
            hint="look at these scans (hemseg doctor --data), or lower train.lr"
            + (f"; the last good checkpoint is {last}" if last.exists() else ""),
        )


@contextlib.contextmanager
def _display(
    run: RunDirectory, state: TrainState, setup: TrainSetup, processes: Processes
) -> Iterator[Display]:
    steps = state.config.train.epochs * len(setup.plan)
    with contextlib.ExitStack() as stack:
        track, trackers = None, Trackers({})
        if processes.is_main:
            track = stack.enter_context(console.live("training", total=1.0, unit="%"))
            trackers = stack.enter_context(open_trackers(state.config, run))
        yield Display(state, track, trackers, run, steps=steps, batches=len(setup.plan))
