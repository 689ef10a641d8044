"""The training loop: a generator of what happened. Saving, logging and stopping are the caller's.

After each event the engine's state is whole: saved there, training goes on from there, be it
between two batches or between two scans of a validation.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.training.batches import Batch, BatchPlan, Loading, batch_stream
from hemseg_cli.training.distributed import World
from hemseg_cli.training.losses import Loss
from hemseg_cli.training.micro_batch import add_gradient, what_binds
from hemseg_cli.training.state import Engine
from hemseg_cli.training.validation import Validation, validate

if TYPE_CHECKING:
    from hemseg_cli.training.cache import PreparedCase


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


@dataclass(frozen=True)
class Material:
    """What is trained on: the patches of every epoch and how they are loaded, the loss, and the scans of the val split."""

    loading: Loading
    plan: BatchPlan
    loss: Loss
    validation: "Sequence[PreparedCase]"


class _Clock:
    """Seconds of training, those before a resume included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def now(self) -> float:
        return time.monotonic() - self._start


def run_epochs(engine: Engine, material: Material, world: World) -> Generator[Event, None, None]:
    """Train from where `engine.progress` stands until the last epoch, the last minute, or the end of patience."""
    progress, train = engine.progress, engine.config.train
    clock = _Clock(progress.seconds)
    with batch_stream(
        material.loading,
        material.plan,
        epoch=progress.epoch,
        batch=progress.batch,
        epochs=train.epochs,
        pin=engine.device.type == "cuda",
    ) as batches:
        while not progress.finished:
            start = time.monotonic()
            done_before = progress.batch
            while progress.batch < len(material.plan) and not (
                progress.batch and _time_is_up(engine)
            ):
                with _memory_named(engine):
                    batch = next(batches)
                    loss = train_step(engine, batch, material, world, clock)
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
            if _validation_is_due(engine):
                validation = yield from _validation(engine, material, world)
            yield _end_epoch(engine, validation, rate, max(world.gather(clock.now())))


def train_step(
    engine: Engine, batch: Batch, material: Material, world: World, clock: _Clock
) -> float | None:
    """One optimiser step; the mean loss over all processes, or None if it is not finite anywhere and the batch was skipped.

    A skipped batch changes nothing: not the weights, and not the batch statistics that its forward
    pass may have spoiled.
    """
    progress, train = engine.progress, engine.config.train
    torch.manual_seed(step_seed(train.seed, progress.epoch, progress.batch, world.rank))
    engine.schedule.set_progress(_fraction(engine, len(material.plan)))
    engine.parallel.train()
    statistics = [
        (buffer, buffer.clone())
        for buffer in engine.network.buffers()
        if buffer.is_floating_point()
    ]
    engine.optimizer.zero_grad(set_to_none=True)
    loss = add_gradient(engine, batch, material.loss)
    losses, seconds = zip(*world.gather((loss, clock.now())), strict=True)
    progress.seconds = max(seconds)
    progress.batch += 1
    applied = all(math.isfinite(value) for value in losses) and _apply(engine)
    if not applied:
        for buffer, before in statistics:
            buffer.copy_(before)
        engine.optimizer.zero_grad(set_to_none=True)
        progress.skipped += 1
        progress.bad_in_a_row += 1
        progress.bad_scans += [scan for scans in world.gather(batch.scans) for scan in scans]
        return None
    progress.step += 1
    progress.bad_in_a_row, progress.bad_scans = 0, []
    engine.mean.update(progress.step)
    mean = math.fsum(losses) / len(losses)
    progress.loss_sum += mean
    progress.losses += 1
    return mean


def step_seed(*numbers: int) -> int:
    """A seed from (seed, epoch, batch, rank), well mixed.

    Dropout needs no generator state to be the same after a resume.
    """
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _apply(engine: Engine) -> bool:
    """Clip, step; False if the gradient is not finite (with a gradient scaler the scaler sees to that, and lowers its scale)."""
    engine.scaler.unscale_(engine.optimizer)
    norm = nn.utils.clip_grad_norm_(
        engine.network.parameters(), engine.config.train.clip_norm or math.inf
    )
    if not engine.scaler.is_enabled() and not math.isfinite(float(norm)):
        return False
    engine.scaler.step(engine.optimizer)
    engine.scaler.update()
    return True


def _validation(
    engine: Engine, material: Material, world: World
) -> Generator[Event, None, Validation | None]:
    start = time.monotonic()
    result: Validation | None = None
    with _memory_named(engine):
        for result in validate(engine, material.validation, world):
            if result is None:
                yield CaseDone()
    engine.progress.validation_seconds = max(world.gather(time.monotonic() - start))
    return result


def _validation_is_due(engine: Engine) -> bool:
    last = engine.progress.epoch + 1 >= engine.config.train.epochs or _time_is_up(engine)
    return last or (engine.progress.epoch + 1) % engine.config.train.validation_every == 0


def _end_epoch(
    engine: Engine, validation: Validation | None, rate: float, seconds: float
) -> EpochDone:
    progress, train = engine.progress, engine.config.train
    best = validation is not None and validation.dice > progress.best_dice
    time_was_up = _time_is_up(engine)
    progress.epoch += 1
    progress.seconds = seconds
    if validation is not None:
        progress.stale = 0 if best else progress.stale + 1
        if best:
            progress.best_dice, progress.best_epoch = validation.dice, progress.epoch
    row = {
        "epoch": progress.epoch,
        "seconds": round(seconds, 3),
        "lr": float(engine.optimizer.param_groups[0]["lr"]),
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
        validation is not None and _time_is_up(engine)
    )  # never without a validation at the end
    progress.finished = progress.epoch >= train.epochs or time_is_up or out_of_patience
    return EpochDone(row, validation, best)


def _fraction(engine: Engine, batches: int) -> float:
    """The share of the training that is over, by epochs or by minutes, whichever is further."""
    progress, train = engine.progress, engine.config.train
    share = (progress.epoch + progress.batch / batches) / train.epochs
    if train.max_minutes is not None:
        share = max(share, progress.seconds / _training_seconds(engine))
    return min(share, 1.0)


def _training_seconds(engine: Engine) -> float:
    """`max_minutes` less the time that the last validation takes, but at least half of it."""
    limit = 60.0 * (engine.config.train.max_minutes or math.inf)
    return max(limit - engine.progress.validation_seconds, limit / 2)


def _time_is_up(engine: Engine) -> bool:
    return (
        engine.config.train.max_minutes is not None
        and engine.progress.seconds >= _training_seconds(engine)
    )


@contextlib.contextmanager
def _memory_named(engine: Engine) -> Iterator[None]:
    """Running out of memory, on a GPU or not, becomes one error that names the two settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(
            error, torch.OutOfMemoryError | MemoryError
        ) and "can't allocate memory" not in str(error):
            raise
        train = engine.config.train
        smaller = list(engine.patch)
        smaller[0], smaller[1] = smaller[0] // 2, smaller[1] // 2
        hint = f"lower one of the two: --set train.batch_size={max(1, train.batch_size // 2)} or --set train.patch={smaller}"
        if engine.at_once > 1 and what_binds(train, engine.network) is None:
            hint += f"; --set train.patches_at_once={max(1, min(engine.at_once, train.batch_size) // 2)}   saves memory for the same result"
        raise HemsegError(
            f"out of memory on {engine.device} with train.batch_size = {train.batch_size} and train.patch = {list(engine.patch)}",
            hint=hint,
        ) from error
