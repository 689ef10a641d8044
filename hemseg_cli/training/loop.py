"""The training loop: a generator of what happened. Saving, logging and stopping are the caller's.

After each event the state's state is whole: saved there, training goes on from there, be it
between two batches or between two scans of a validation.
"""

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.training.batches import Batch, batch_stream
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.micro_batch import add_gradient, coupling_of
from hemseg_cli.training.setup import TrainSetup
from hemseg_cli.training.state import TrainState, step_seed
from hemseg_cli.training.validation import Validation, validate


@dataclass(frozen=True)
class StepDone:
    """One batch. `loss` is None where it was not finite and the batch was skipped."""

    loss: float | None
    scans: list[str]
    rate: float  # patches per second, all processes together


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


class _Clock:
    """Seconds of training, those before a resume included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def now(self) -> float:
        return time.monotonic() - self._start


def run_epochs(
    state: TrainState, setup: TrainSetup, processes: Processes
) -> Generator[Event, None, None]:
    """Train from where `state.progress` stands until the last epoch, the last minute, or the end of patience."""
    progress, train = state.progress, state.config.train
    clock = _Clock(progress.seconds)
    with batch_stream(
        setup.loading,
        setup.plan,
        epoch=progress.epoch,
        batch=progress.batch,
        epochs=train.epochs,
        pin=state.device.type == "cuda",
    ) as batches:
        while not progress.finished:
            start = time.monotonic()
            done_before = progress.batch
            while progress.batch < len(setup.plan) and not (progress.batch and _time_is_up(state)):
                with _memory_named(state):
                    batch = next(batches)
                    loss = train_step(state, batch, setup, processes, clock)
                rate = (
                    (progress.batch - done_before)
                    * train.batch_size
                    / max(time.monotonic() - start, 1e-9)
                )
                yield StepDone(loss, batch.scans, rate)
            rate = (
                (progress.batch - done_before)
                * train.batch_size
                / max(time.monotonic() - start, 1e-9)
            )
            validation = None
            if _validation_is_due(state):
                validation = yield from _validation(state, setup, processes)
            yield _end_epoch(state, validation, rate, max(processes.gather(clock.now())))


def train_step(
    state: TrainState, batch: Batch, setup: TrainSetup, processes: Processes, clock: _Clock
) -> float | None:
    """One optimiser step; the mean loss over all processes, or None if it is not finite anywhere and the batch was skipped.

    A skipped batch changes nothing: not the weights, and not the batch statistics that its forward
    pass may have spoiled.
    """
    progress, train = state.progress, state.config.train
    torch.manual_seed(step_seed(train.seed, progress.epoch, progress.batch, processes.rank))
    state.schedule.set_progress(_fraction(state, len(setup.plan)))
    state.parallel.train()
    statistics = [
        (buffer, buffer.clone()) for buffer in state.network.buffers() if buffer.is_floating_point()
    ]
    state.optimizer.zero_grad(set_to_none=True)
    loss = add_gradient(state, batch, setup.loss)
    losses, seconds = zip(*processes.gather((loss, clock.now())), strict=True)
    progress.seconds = max(seconds)
    progress.batch += 1
    applied = all(math.isfinite(value) for value in losses) and _apply(state)
    if not applied:
        for buffer, before in statistics:
            buffer.copy_(before)
        state.optimizer.zero_grad(set_to_none=True)
        progress.skipped += 1
        progress.bad_in_a_row += 1
        progress.bad_scans += [scan for scans in processes.gather(batch.scans) for scan in scans]
        return None
    progress.step += 1
    progress.bad_in_a_row, progress.bad_scans = 0, []
    state.mean.update(progress.step)
    mean = math.fsum(losses) / len(losses)
    progress.loss_sum += mean
    progress.losses += 1
    return mean


def _apply(state: TrainState) -> bool:
    """Clip, step; False if the gradient is not finite (with a gradient scaler the scaler sees to that, and lowers its scale)."""
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(
        state.network.parameters(), state.config.train.clip_norm or math.inf
    )
    if not state.scaler.is_enabled() and not math.isfinite(float(norm)):
        return False
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return True


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
    }
    progress.history.append(row)
    progress.begin_epoch()
    out_of_patience = train.patience is not None and progress.stale >= train.patience
    time_is_up = time_was_up or (
        validation is not None and _time_is_up(state)
    )  # never without a validation at the end
    progress.finished = progress.epoch >= train.epochs or time_is_up or out_of_patience
    return EpochDone(row, validation, best)


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
    """Running out of memory, on a GPU or not, becomes one error that names the two settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(
            error, torch.OutOfMemoryError | MemoryError
        ) and "can't allocate memory" not in str(error):
            raise
        train = state.config.train
        smaller = list(state.patch)
        smaller[0], smaller[1] = smaller[0] // 2, smaller[1] // 2
        hint = f"lower one of the two: --set train.batch_size={max(1, train.batch_size // 2)} or --set train.patch={smaller}"
        if state.micro_batch > 1 and coupling_of(train, state.network) is None:
            hint += f"; --set train.micro_batch={max(1, min(state.micro_batch, train.batch_size) // 2)}   saves memory for the same result"
        raise HemsegError(
            f"out of memory on {state.device} with train.batch_size = {train.batch_size} and train.patch = {list(state.patch)}",
            hint=hint,
        ) from error
