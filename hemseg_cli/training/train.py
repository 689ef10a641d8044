"""`hemseg train`: one system into a run directory.

The loop says what happens; here it is shown, saved and, where asked, stopped.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hemseg_cli.config import Config, dump
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, Stopped, UsageError
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.core.run_directory import RunDirectory, create_run, mark_latest, open_run
from hemseg_cli.inference.predictor import torch_device
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.registry import model_to_train
from hemseg_cli.training.display import Display
from hemseg_cli.training.distributed import Processes, process_group
from hemseg_cli.training.environment import environment, write_environment
from hemseg_cli.training.history import write_history
from hemseg_cli.training.loop import EpochDone, StepDone, run_epochs
from hemseg_cli.training.setup import (
    TrainSetup,
    check_config,
    make_setup,
    make_state,
)
from hemseg_cli.training.signals import StopRequest, stop_requests
from hemseg_cli.training.state import (
    TrainState,
    check_resumable,
    load_last,
    save_last,
)
from hemseg_cli.training.tune_prediction import count_passes, store_settings, tune_prediction
from hemseg_cli.training.validation import predict_settings

_TUNING_TIME_SHARE = 0.1  # of the training's time: beyond the usual way of prediction, none is tried that would take longer


@dataclass(frozen=True)
class TrainResult:
    """A finished training. `best_dice`.

    Mean Dice of the val split's whole scans at the best epoch.
    """

    run: RunDirectory
    model: str
    epochs: int
    best_epoch: int
    best_dice: float
    seconds: float

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


def train(config: Config, *, run: str | None = None, resume: bool = False) -> TrainResult:
    """Train one system as `config.train` says, by the family of its model.

    `run`: name of the run directory below `runs.root` (None: a new one, or with `resume` the
    newest). HemsegError if it cannot be done, Stopped if SIGTERM or Ctrl-C came and the state was
    saved.
    """
    result: TrainResult = model_to_train(config.train).family.train(config, run=run, resume=resume)
    return result


def train_network(config: Config, *, run: str | None, resume: bool) -> TrainResult:
    """Train one of our networks (`Family.train`)."""
    check_config(config)
    device = torch_device(config.compute.device)
    with process_group(device.type) as processes:
        device = processes.device(device)
        directory = processes.broadcast(lambda: _directory(config, run, resume=resume))
        with directory.lock() if processes.is_main else contextlib.nullcontext():
            if processes.is_main:
                console.add_log_file(directory.log_file)
                remove_leftovers(directory.path)
            setup = make_setup(config, device, processes)
            state = make_state(config, setup, device, processes)
            if resume:
                _resume(directory, state)
            if processes.is_main:
                write_setup(directory, config, device, processes, resumed=resume)
            _train_to_the_end(directory, state, setup, processes)
            if processes.is_main and config.train.tune != "none":
                _tune_prediction(
                    directory,
                    config,
                    setup,
                    device,
                    seconds=state.progress.seconds * _TUNING_TIME_SHARE,
                )
    progress = state.progress
    return TrainResult(
        directory,
        config.train.model,
        progress.epoch,
        progress.best_epoch,
        progress.best_dice,
        progress.seconds,
    )


def finished_result(config: Config, run: str) -> TrainResult | None:
    """The result of a run that is finished; None where it is not, or does not exist."""
    directory = RunDirectory(config.runs.root / run)
    if not directory.checkpoint("last").is_file():
        return None
    result: TrainResult | None = model_to_train(config.train).family.finished(config, directory)
    return result


def finished_network(config: Config, directory: RunDirectory) -> TrainResult | None:
    """The result of a run of one of our networks that is finished, else None (`Family.finished`)."""
    progress = load_last(directory)["progress"]
    if not progress["finished"]:
        return None
    best, seconds = float(progress["best_dice"]), float(progress["seconds"])
    return TrainResult(
        directory,
        config.train.model,
        int(progress["epoch"]),
        int(progress["best_epoch"]),
        best,
        seconds,
    )


def _directory(config: Config, name: str | None, *, resume: bool) -> RunDirectory:
    if resume:
        run = open_run(config.runs.root, name)
        check_resumable(run, load_last(run), config)
        return run
    return new_run(config, name)


def new_run(config: Config, name: str | None) -> RunDirectory:
    """Make the directory of a new run; UsageError if a run of that name has been trained."""
    if name is not None and RunDirectory(config.runs.root / name).checkpoint("last").exists():
        with RunDirectory(config.runs.root / name).lock():
            pass  # refused with the other's process id, where one is training it now
        raise UsageError(
            f"run {name} has been trained already",
            hint=f"--resume --run {name}   goes on with it; or give another --run",
        )
    return create_run(config.runs.root, model=config.train.model, name=name)


def _resume(run: RunDirectory, state: TrainState) -> None:
    checkpoint = load_last(run)
    state.restore(checkpoint)
    progress = state.progress
    console.say(
        f"resuming run {run.name} in epoch {progress.epoch + 1} after {progress.batch} batches"
    )


def write_setup(
    run: RunDirectory, config: Config, device: torch.device, processes: Processes, *, resumed: bool
) -> None:
    """Write the configuration (of a new run) and the environment, and let `latest` name the run."""
    if not resumed:
        write_text(run.config_file, dump(config))
    write_environment(run.environment_file, environment(device, processes=processes.size))
    mark_latest(run)


def _train_to_the_end(
    run: RunDirectory, state: TrainState, setup: TrainSetup, processes: Processes
) -> None:
    """Follow the loop: show, save, and stop when a signal asks for it."""
    with (
        stop_requests() as request,
        _display(run, state, setup, processes) as display,
        _Saver(run, state, processes) as saver,
    ):
        events = run_epochs(state, setup, processes)
        with setup.loading.deaths_named(), contextlib.closing(events):
            for event in events:
                display.show(event)
                if isinstance(event, EpochDone):
                    saver.epoch(event)
                elif isinstance(event, StepDone):
                    saver.step()
                    _check_losses(state, run)
                if not state.progress.finished:
                    _leave_if_asked(request, saver, run, processes)


def _tune_prediction(
    run: RunDirectory, config: Config, setup: TrainSetup, device: torch.device, *, seconds: float
) -> None:
    """Put the settings of prediction that suit the val split best into the best checkpoint, in about so many seconds."""
    best = run.checkpoint("best")
    cases = [prepared.case for prepared in setup.validation[: config.train.tune_cases]]
    with (
        stop_requests() as request,
        console.live(
            "choosing prediction settings", total=len(cases) * count_passes(config)
        ) as track,
        contextlib.closing(tune_prediction(best, config, cases, device, seconds=seconds)) as steps,
    ):
        for tuned in steps:
            track.update(advance=1)
            if request.exit_code is not None:
                raise Stopped(
                    request.exit_code,
                    f"stopped; {run.name} is trained, and predicts with the settings of its training",
                )
            if tuned is not None:
                store_settings(best, tuned.settings)
                console.say(tuned.text())


def _leave_if_asked(
    request: StopRequest, saver: "_Saver", run: RunDirectory, processes: Processes
) -> None:
    codes = [code for code in processes.gather(request.exit_code) if code is not None]
    if codes:
        saver.save()
        raise stopped(run, codes[0])


def stopped(run: RunDirectory, exit_code: int) -> Stopped:
    """What is raised when a signal has ended a training whose state is saved."""
    return Stopped(
        exit_code,
        f"stopped; the state is saved: hemseg train --resume --run {run.name}   goes on there",
    )


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
        raise HemsegError(
            f"the loss was not finite in {progress.bad_in_a_row} batches in a row, of the scans {', '.join(scans)}",
            hint=f"the last good checkpoint is {run.checkpoint('last')}; look at these scans (hemseg doctor), or lower train.lr",
        )


class _Saver:
    """Writes checkpoints and history, on rank 0 alone."""

    def __init__(self, run: RunDirectory, state: TrainState, processes: Processes) -> None:
        self._run, self._state, self._writes = run, state, processes.is_main
        self._saved_at = time.monotonic()

    def __enter__(self) -> "_Saver":
        if self._writes and not self._run.checkpoint("last").exists():
            self.save()
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def step(self) -> None:
        if time.monotonic() - self._saved_at >= 60 * self._state.config.train.save_minutes:
            self.save()

    def epoch(self, event: EpochDone) -> None:
        if not self._writes:
            return
        if event.best:
            self._state.predict = predict_settings(self._state, event.validation)
            write_checkpoint(self._run.checkpoint("best"), self._state.prediction_checkpoint())
        if event.best or self._state.progress.finished:
            self.save()
        else:
            self.step()
        write_history(self._run.history_file, self._state.progress.history)

    def save(self) -> None:
        if self._writes:
            save_last(self._run, self._state.resume_checkpoint())
            write_history(self._run.history_file, self._state.progress.history)
        self._saved_at = time.monotonic()


@contextlib.contextmanager
def _display(
    run: RunDirectory, state: TrainState, setup: TrainSetup, processes: Processes
) -> Iterator[Display]:
    steps = state.config.train.epochs * len(setup.plan)
    with contextlib.ExitStack() as stack:
        board = (
            stack.enter_context(tensorboard(run))
            if state.config.train.tensorboard and processes.is_main
            else None
        )
        track = (
            stack.enter_context(console.live("training", total=1.0, unit="%"))
            if processes.is_main
            else None
        )
        yield Display(state, track, board, steps=steps, batches=len(setup.plan))


@contextlib.contextmanager
def tensorboard(run: RunDirectory) -> Iterator[Any]:
    """A TensorBoard writer into `train/tensorboard`.

    HemsegError naming the extra where it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra
    except ImportError:
        raise HemsegError(
            "train.tensorboard = true needs TensorBoard", hint="pip install 'hemseg[tensorboard]'"
        ) from None
    with SummaryWriter(str(run.history_file.parent / "tensorboard")) as writer:
        yield writer
