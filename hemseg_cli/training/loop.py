"""Train: yield each step, validation round and epoch, with the state whole after each.

Saving, logging and stopping are the caller's. The state saved after an event is the one that
training goes on from, be it between two batches or between two scans of a validation.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hemseg_cli.core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, HemsegError
from hemseg_cli.models.registry import require_model
from hemseg_cli.training.batches import Batch, batch_stream
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.micro_batch import add_gradient, coupling_of
from hemseg_cli.training.setup import TrainSetup
from hemseg_cli.training.state import Progress, TrainState, step_seed
from hemseg_cli.training.validation import Validation, validate

StopCode = Callable[[], int | None]


@dataclass(frozen=True)
class StepDone:
    """One batch. `loss` is None where it was not finite and the batch was skipped.

    `stop`: the exit code of a process that was asked to stop, None where none was.
    """

    loss: float | None
    scans: list[str]
    rate: float  # patches per second, all processes together
    stop: int | None = None


@dataclass(frozen=True)
class CaseDone:
    """One round of validation scans: a moment at which the caller may stop."""


@dataclass(frozen=True)
class EpochDone:
    """One epoch with its row of the history.

    `validation` is None where it was not this epoch's turn.
    """

    row: dict[str, Any]
    validation: Validation | None
    best: bool


Event = StepDone | CaseDone | EpochDone


class Clock:
    """Count the seconds of training, those before a resume included."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    def now(self) -> float:
        """Return the seconds so far."""
        return time.monotonic() - self._start


class _PatchRate:
    """Measure the patches per second of one epoch, over all processes."""

    def __init__(self, progress: Progress, batch_size: int) -> None:
        self._progress, self._batch_size = progress, batch_size
        self._begun, self._before = time.monotonic(), progress.batch

    def now(self) -> float:
        patches = (self._progress.batch - self._before) * self._batch_size
        return patches / max(time.monotonic() - self._begun, 1e-9)


def run_epochs(
    state: TrainState,
    setup: TrainSetup,
    processes: Processes,
    stop_code: StopCode = lambda: None,
) -> Generator[Event, None, None]:
    """Train from where `state.progress` stands to the last epoch, the last minute or no patience.

    `stop_code`: the exit code that a signal asked this process for; steps carry that of any.
    """
    progress, train = state.progress, state.config.train
    clock = Clock(progress.seconds)
    with batch_stream(
        setup.loading,
        setup.plan,
        epoch=progress.epoch,
        batch=progress.batch,
        epochs=train.epochs,
        pin=state.device.type == "cuda",
    ) as batches:
        while not progress.finished:
            rate = _PatchRate(progress, train.batch_size)

            # Time may be up in the middle of an epoch, but never before its first batch.
            while progress.batch < len(setup.plan) and not (progress.batch and _time_is_up(state)):
                with _memory_named(state):
                    batch = next(batches)
                    loss, stop = train_step(state, batch, setup, processes, clock, stop_code)
                yield StepDone(loss, batch.scans, rate.now(), stop)

            trained_rate = rate.now()
            validation = None
            if _validation_is_due(state):
                validation = yield from _validation(state, setup, processes)
            seconds = max(processes.gather(clock.now()))
            yield _end_epoch(state, validation, trained_rate, seconds)


def train_step(
    state: TrainState,
    batch: Batch,
    setup: TrainSetup,
    processes: Processes,
    clock: Clock,
    stop_code: StopCode = lambda: None,
) -> tuple[float | None, int | None]:
    """Take one optimiser step.

    Returns the mean loss over all processes, None if it or the gradient is not finite anywhere and
    the batch was skipped, and the exit code of a process that was asked to stop. A skipped batch
    changes nothing: not the weights, and not the batch statistics that its forward pass may have
    spoiled.
    """
    progress, train = state.progress, state.config.train

    # Dropout depends on the place in the training alone, so that a resume needs no generator state.
    torch.manual_seed(step_seed(train.seed, progress.epoch, progress.batch, processes.rank))
    fraction = _fraction(state, len(setup.plan))
    state.schedule.set_progress(fraction)
    state.parallel.train()
    statistics = [
        (buffer, buffer.clone()) for buffer in state.network.buffers() if buffer.is_floating_point()
    ]

    # The gradient, averaged over the processes by DistributedDataParallel, then clipped.
    state.optimizer.zero_grad(set_to_none=True)
    loss = add_gradient(state, batch, setup.loss)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), train.clip_norm or math.inf)

    # The one wait for the device in a step: all that the processes have to agree on, in one sum.
    answers = _agree(state, loss, norm, clock.now(), stop_code(), processes)
    progress.seconds, stop = answers.seconds, answers.stop
    progress.batch += 1

    if not answers.loss_is_finite or not (answers.norm_is_finite or state.scaler.is_enabled()):
        for buffer, before in statistics:
            buffer.copy_(before)
        _skip_step(state)
        progress.skipped += 1
        progress.bad_in_a_row += 1
        progress.bad_scans += [scan for scans in processes.gather(batch.scans) for scan in scans]
        return None, stop

    if answers.norm_is_finite:
        state.scaler.step(state.optimizer)
        state.scaler.update()
        progress.step += 1
        # So many steps in all, by the share that is done: `max_minutes` leaves no other number.
        total = progress.step / fraction if fraction > 0 else train.epochs * len(setup.plan)
        state.mean.update(progress.step, total)
    else:
        # Float16 overflowed, as it does until the scale has come down: lower it, and go on.
        _skip_step(state)
    progress.bad_in_a_row, progress.bad_scans = 0, []
    progress.loss_sum += answers.loss
    progress.losses += 1
    return answers.loss, stop


@dataclass(frozen=True)
class _Agreed:
    """What all processes know after a step. `loss` is the mean; `seconds` the main process's."""

    loss: float
    loss_is_finite: bool
    norm_is_finite: bool
    seconds: float
    stop: int | None


def _agree(
    state: TrainState,
    loss: Tensor,
    norm: Tensor,
    seconds: float,
    stop: int | None,
    processes: Processes,
) -> _Agreed:
    """Sum one small tensor over the processes, and read it once."""
    finite = torch.isfinite(loss)
    mine = torch.stack(
        [
            torch.where(finite, loss, 0.0),
            (~finite).float(),
            (~torch.isfinite(norm)).float(),
            # Made on the host: sent to the device without a wait for it.
            *torch.tensor(
                [
                    seconds if processes.is_main else 0.0,
                    float(stop == EXIT_INTERRUPTED),
                    float(stop == EXIT_TERMINATED),
                ]
            ).to(state.device, non_blocking=True),
        ]
    )
    total, bad_losses, bad_norms, clock, interrupted, terminated = processes.add_up(mine).tolist()
    return _Agreed(
        loss=total / processes.size,
        loss_is_finite=not bad_losses,
        norm_is_finite=not bad_norms,
        seconds=clock,
        stop=EXIT_TERMINATED if terminated else EXIT_INTERRUPTED if interrupted else None,
    )


def _skip_step(state: TrainState) -> None:
    """Drop the gradient; a scaler that has found it infinite lowers its scale."""
    if state.scaler.is_enabled():
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)


def _validation(
    state: TrainState, setup: TrainSetup, processes: Processes
) -> Generator[Event, None, Validation | None]:
    start = time.monotonic()
    result: Validation | None = None
    with _memory_named(state):
        for result in validate(state, setup.validation, processes):
            if result is None:
                yield CaseDone()
    state.progress.validation_seconds = max(processes.gather(time.monotonic() - start))
    return result


def _validation_is_due(state: TrainState) -> bool:
    last = state.progress.epoch + 1 >= state.config.train.epochs or _time_is_up(state)
    return last or (state.progress.epoch + 1) % state.config.train.validation_every == 0


def _end_epoch(
    state: TrainState, validation: Validation | None, rate: float, seconds: float
) -> EpochDone:
    """Count the epoch, add its row to the history, and decide whether it was the last."""
    progress, train = state.progress, state.config.train
    best = validation is not None and validation.dice > progress.best_dice
    time_was_up = _time_is_up(state)
    progress.epoch += 1
    progress.seconds = seconds
    if validation is not None:
        progress.stale = 0 if best else progress.stale + 1
        if best:
            progress.best_dice, progress.best_epoch = validation.dice, progress.epoch

    row = {
        "epoch": progress.epoch,
        "seconds": round(seconds, 3),
        "lr": float(state.optimizer.param_groups[0]["lr"]),
        "train_loss": progress.loss_sum / progress.losses if progress.losses else None,
        "val_loss": validation.loss if validation is not None else None,
        "val_dice": validation.dice if validation is not None else None,
        "best": int(best),
        "skipped": progress.skipped,
        "patches_per_s": round(rate, 3),
        **(validation.dice_by_stratum() if validation is not None else {}),
        **(_class_columns(state, validation) if validation is not None else {}),
    }
    progress.history.append(row)
    progress.begin_epoch()

    # Time that ran out during a validation ends the training; without one, the next epoch does.
    out_of_patience = train.patience is not None and progress.stale >= train.patience
    time_is_up = time_was_up or (validation is not None and _time_is_up(state))
    progress.finished = progress.epoch >= train.epochs or time_is_up or out_of_patience
    return EpochDone(row, validation, best)


def _class_columns(state: TrainState, validation: Validation) -> dict[str, float]:
    """The mean Dice of each class as columns of the history; none for one class."""
    if len(state.classes) == 1:
        return {}
    return {f"val_dice_{key}": value for key, value in validation.dice_by_class().items()}


def _fraction(state: TrainState, batches: int) -> float:
    """The share of the training that is over, by epochs or by minutes, whichever is further."""
    progress, train = state.progress, state.config.train
    share = (progress.epoch + progress.batch / batches) / train.epochs
    if train.max_minutes is not None:
        share = max(share, progress.seconds / _training_seconds(state))
    return min(share, 1.0)


def _training_seconds(state: TrainState) -> float:
    """`max_minutes` less the time that the last validation takes, but at least half of it."""
    limit = 60.0 * (state.config.train.max_minutes or math.inf)
    return max(limit - state.progress.validation_seconds, limit / 2)


def _time_is_up(state: TrainState) -> bool:
    return (
        state.config.train.max_minutes is not None
        and state.progress.seconds >= _training_seconds(state)
    )


@contextlib.contextmanager
def _memory_named(state: TrainState) -> Iterator[None]:
    """Turn running out of memory, on a GPU or not, into an error that names what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(
            error, torch.OutOfMemoryError | MemoryError
        ) and "can't allocate memory" not in str(error):
            raise
        train = state.config.train
        # Half of the patch in plane, in numbers that the network takes.
        multiple = require_model(train.model).patch_multiple(state.model_config)
        smaller = [
            max(m, n // 2 // m * m) if axis < 2 else n
            for axis, (n, m) in enumerate(zip(state.patch, multiple, strict=True))
        ]
        hint = (
            f"lower one of the two: --set train.batch_size={max(1, train.batch_size // 2)} "
            f"or --set train.patch={smaller}"
        )
        if train.size == "large":
            hint += "; --set train.size=standard   takes the smaller network"
        if state.micro_batch > 1 and coupling_of(train, state.network) is None:
            fewer = max(1, min(state.micro_batch, train.batch_size) // 2)
            hint += f"; --set train.micro_batch={fewer}   saves memory for the same result"
        raise HemsegError(
            f"out of memory on {state.device} with train.batch_size = {train.batch_size} "
            f"and train.patch = {list(state.patch)}",
            hint=hint,
        ) from error
