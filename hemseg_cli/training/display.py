"""Show a training: validation Dice, best, loss, epoch, rate, time left, memory; trackers too."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from hemseg_cli.core import console
from hemseg_cli.core.names import duration_text
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.training.loop import EpochDone, Event, StepDone
from hemseg_cli.training.picture import write_picture
from hemseg_cli.training.state import TrainState
from hemseg_cli.training.tracking import Trackers

_LOSS_SMOOTHING = 0.95  # of the running mean of the loss that is shown


class Display:
    """Follows the loop's events.

    `track` is None where this process does not talk. Pictures of validations go to `run`.
    """

    def __init__(
        self,
        state: TrainState,
        track: console.Track | None,
        trackers: Trackers,
        run: RunDirectory,
        *,
        steps: int,
        batches: int,
    ) -> None:
        self._state, self._track, self._trackers, self._run = state, track, trackers, run
        self._steps, self._batches = steps, batches
        self._loss: float | None = None
        if track is not None:
            # The first fields are the last to go where a terminal is narrow.
            track.update(dice="-", best="-")
        self._begun, self._share_at_begin = time.monotonic(), self._share()

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StepDone):
            self._show_step(event)
        elif isinstance(event, EpochDone):
            self._show_epoch(event)

    def _show_step(self, event: StepDone) -> None:
        progress, train = self._state.progress, self._state.config.train
        if event.loss is not None:
            self._loss = (
                event.loss
                if self._loss is None
                else _LOSS_SMOOTHING * self._loss + (1 - _LOSS_SMOOTHING) * event.loss
            )
            self._trackers.step(event.loss, progress.step)
        if self._track is not None:
            self._track.update(
                done=self._share(),
                epoch=str(progress.epoch + 1)
                if train.max_minutes
                else f"{progress.epoch + 1}/{train.epochs}",
                loss="-" if self._loss is None else f"{self._loss:.4f}",
                rate=f"{event.rate:.1f} patches/s",
                left=self._time_left(),
                memory=memory_text(self._state.device),
            )

    def _show_epoch(self, event: EpochDone) -> None:
        row = event.row
        progress = self._state.progress
        if self._track is not None:
            if event.validation is not None:
                self._track.update(
                    dice=f"{row['val_dice']:.4f}",
                    best=f"{progress.best_dice:.4f} (epoch {progress.best_epoch})",
                )
            train = self._state.config.train
            console.say(epoch_text(row, None if train.max_minutes else train.epochs))
        self._trackers.epoch(row)
        if event.validation is not None and event.validation.picture is not None:
            file = self._run.picture_file(row["epoch"])
            write_picture(file, event.validation.picture)
            self._trackers.picture(file, row["epoch"])

    def _share(self) -> float:
        """The share of the training that is done, by steps or by minutes."""
        progress, train = self._state.progress, self._state.config.train
        share = (progress.epoch * self._batches + progress.batch) / self._steps
        return min(
            1.0,
            max(share, progress.seconds / (60 * train.max_minutes) if train.max_minutes else 0.0),
        )

    def _time_left(self) -> str:
        gained = self._share() - self._share_at_begin
        if gained <= 0:
            return "-"
        return duration_text((time.monotonic() - self._begun) / gained * (1 - self._share()))


def epoch_text(row: Mapping[str, Any], epochs: int | None) -> str:
    """One line about an epoch: `epoch 5/300  Dice 0.8120 (best so far)  loss 0.4211 ...`.

    `epochs`: of the whole training; None where minutes end it.
    """
    parts = [f"epoch {row['epoch']}/{epochs}" if epochs else f"epoch {row['epoch']}"]
    if row["val_dice"] is not None:
        parts.append(f"Dice {row['val_dice']:.4f}{' (best so far)' if row['best'] else ''}")
    if row["train_loss"] is not None:
        parts.append(f"loss {row['train_loss']:.4f}")
    if row.get("skipped"):
        parts.append(f"{row['skipped']} batches skipped")
    parts += [f"{row['patches_per_s']:.1f} patches/s", duration_text(row["seconds"])]
    return "  ".join(parts)


def show_row(track: console.Track, row: Mapping[str, Any], *, best: str) -> None:
    """Show and log one row of the history, of a trainer that tells no more than that."""
    track.update(
        done=row["epoch"],
        epoch=str(row["epoch"]),
        loss=f"{row['train_loss']:.4f}",
        dice=f"{row['val_dice']:.4f}",
        best=best,
        rate=f"{row['patches_per_s']:.1f} patches/s",
    )
    console.log.info("%s", "  ".join(f"{key} {value}" for key, value in row.items()))


def memory_text(device: torch.device) -> str:
    """The most memory taken so far on a GPU, or what this process holds, in GB."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    import psutil

    return f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
