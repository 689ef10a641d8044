"""Keep everything that training needs to go on exactly where it stopped, and its files.

`last.pt` is replaced by a rename, so that a kill at any moment leaves it whole; the one before
stays as `previous.pt`.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hemseg_cli.config import Config
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass, classes_to_plain
from hemseg_cli.core.devices import precision_for
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.preprocess import Preprocess
from hemseg_cli.models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from hemseg_cli.training.augmentation import mirrored_axes
from hemseg_cli.training.ema import WeightMean
from hemseg_cli.training.schedule import LearningRateSchedule

# Keys that may change between a run and its resume: they change where and how, never what is
# computed.
_FREE_KEYS = ("train.trackers", "train.picture_every", "train.save_minutes", "data.root")
_COMPARED_SECTIONS = ("train", "data")
NEVER = -1.0


@dataclass
class Progress:
    """Where training stands, as plain values.

    `batch` counts the finished batches of the running epoch, `epoch` the finished epochs.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimiser steps
    seconds: float = 0.0  # pauses between resumes left out
    validation_seconds: float = 0.0  # of the last validation
    loss_sum: float = 0.0  # of the running epoch
    losses: int = 0
    skipped: int = 0  # batches of the running epoch whose loss was not finite
    bad_in_a_row: int = 0
    bad_scans: list[str] = field(default_factory=list)  # in those batches
    best_dice: float = NEVER
    best_epoch: int = 0
    stale: int = 0  # validations since the best one
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def begin_epoch(self) -> None:
        """Reset the counts of the running epoch."""
        self.batch, self.loss_sum, self.losses, self.skipped = 0, 0.0, 0, 0


@dataclass
class TrainState:
    """What changes while training, with what describes it.

    `parallel` is `network` behind DistributedDataParallel, or itself.
    """

    config: Config
    network: nn.Module
    parallel: nn.Module
    mean: WeightMean
    optimizer: torch.optim.Optimizer
    schedule: LearningRateSchedule
    scaler: "torch.amp.GradScaler"
    device: torch.device
    precision: torch.dtype
    micro_batch: int  # patches that go through the network together
    preprocess: Preprocess
    patch: tuple[int, int, int]
    model_config: dict[str, Any]
    predict: dict[str, Any] = field(
        default_factory=dict
    )  # settings of prediction that the best epoch chose
    progress: Progress = field(default_factory=Progress)
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY  # one output channel each

    def prediction_checkpoint(self) -> dict[str, Any]:
        """Make a checkpoint for prediction: the averaged weights and what rebuilds the network.

        `dataset` names the data set that it was trained on.
        """
        return {
            "model": self.mean.network.state_dict(),
            "model_name": self.config.train.model,
            "model_config": self.model_config,
            "preprocess": self.preprocess.to_dict(),
            "padding": self.config.train.padding,
            "activation": self.config.train.activation,
            "mirrored": list(mirrored_axes(self.config.train.augment)),
            "patch": list(self.patch),
            "in_channels": len(self.preprocess.windows),
            "step": self.progress.step,
            "dataset": self.config.data.dataset,
            "epoch": self.progress.epoch,
            "predict": dict(self.predict),
            "classes": classes_to_plain(self.classes),
            "val_dice": self.progress.best_dice if self.progress.best_epoch else None,
        }

    def resume_checkpoint(self) -> dict[str, Any]:
        """Make a checkpoint to resume from: `prediction_checkpoint`, and all the rest."""
        return {
            **self.prediction_checkpoint(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": _random_states(),
            "progress": asdict(self.progress),
            "precision": str(self.precision).removeprefix("torch."),
            "config": self.config.model_dump(mode="json"),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up a `state`, its arithmetic too, whatever `auto` means here.

        FileFormatError if it is not one, or another model's.
        """
        load_weights(self.mean.network, checkpoint)
        load_weights(self.network, {**checkpoint, "model": checkpoint["network"]})
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.schedule.load_state_dict(checkpoint["schedule"])
            self.scaler.load_state_dict(checkpoint["scaler"])
            self.precision = precision_for(checkpoint["precision"], self.device)
            self.predict = dict(checkpoint["predict"])
            self.progress = Progress(**checkpoint["progress"])
            _set_random_states(checkpoint["random"])
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"the training state does not fit this version or model: {error}"
            ) from None


def step_seed(*numbers: int) -> int:
    """A seed from (seed, epoch, batch, rank), well mixed.

    Dropout needs no generator state to be the same after a resume.
    """
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def save_last(run: RunDirectory, values: Mapping[str, Any]) -> None:
    """Replace `last.pt`, which becomes `previous.pt`.

    At every moment one whole `last.pt` is there.
    """
    last, upcoming, previous = (
        run.checkpoint("last"),
        run.checkpoint("next"),
        run.checkpoint("previous"),
    )
    write_checkpoint(upcoming, values)
    try:
        if last.is_file():
            spare = run.checkpoint("spare")
            spare.unlink(missing_ok=True)
            _link_or_copy(last, spare)
            spare.replace(previous)
        upcoming.replace(last)
    except OSError as error:
        raise HemsegError(
            f"cannot replace {last}: {error.strerror}",
            hint="free the disk; then hemseg train --resume",
        ) from None


def load_last(run: RunDirectory) -> dict[str, Any]:
    """The state in `last.pt`; where it is damaged, the error offers the one before."""
    last, previous = run.checkpoint("last"), run.checkpoint("previous")
    if not last.is_file():
        raise HemsegError(
            f"run {run.name} has nothing to resume: no {last}",
            hint=f"hemseg train --run {run.name}   starts it",
        )
    try:
        state = read_checkpoint(last)
    except FileFormatError as error:
        try:
            epoch = read_checkpoint(previous)["epoch"]
        except HemsegError:
            raise error from None
        raise FileFormatError(
            error.message,
            hint=f"the one before, of epoch {epoch}, is whole: "
            f"mv {previous} {last} && hemseg train --resume --run {run.name}",
        ) from None
    missing = {"network", "optimizer", "schedule", "scaler", "random", "progress", "config"} - set(
        state
    )
    if missing:
        raise FileFormatError(
            f"{last} cannot be resumed: it has no {', '.join(sorted(missing))}",
            hint="best.pt is for prediction only",
        )
    return state


def check_resumable(
    run: RunDirectory, state: Mapping[str, Any], config: Config, *, longer: bool = False
) -> None:
    """Raise HemsegError if the run is of another model or configuration, naming each key.

    `longer`: more epochs are none.
    """
    name = str(state["model_name"])
    if name != config.train.model:
        raise HemsegError(
            f"{run.checkpoint('last')} is a checkpoint of {name}, "
            f"not of train.model = {config.train.model}",
            hint=f"hemseg train --resume --run {run.name} --model {name}",
        )
    then = state["config"]
    if longer and config.train.epochs > int(then["train"]["epochs"]):
        then = {**then, "train": {**then["train"], "epochs": config.train.epochs}}
    check_same_config(run, then, config)


def check_same_config(run: RunDirectory, then: Mapping[str, Any], config: Config) -> None:
    """Raise HemsegError naming each key of the run's configuration that `config` differs in.

    `then`: the run's, as plain values.
    """
    differing = list(_differences(then, config.model_dump(mode="json")))
    if differing:
        raise HemsegError(
            f"run {run.name} was trained with another configuration:\n  " + "\n  ".join(differing),
            hint=f"hemseg train --resume --run {run.name} --config {run.config_file}   "
            "goes on with the run's own; a change is a new run",
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Any:
    for section in _COMPARED_SECTIONS:
        before, after = (
            dict(_flat(then.get(section, {}), section)),
            dict(_flat(now.get(section, {}), section)),
        )
        for key in sorted({*before, *after}):
            if key not in _FREE_KEYS and before.get(key) != after.get(key):
                yield f"{key}: {before.get(key)!r} then, {after.get(key)!r} now"


def _flat(values: Any, prefix: str) -> Any:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}")
    else:
        yield prefix, values


def _random_states() -> dict[str, Any]:
    """The generators of python, numpy, torch and CUDA as tensors and plain values."""
    name, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [
            str(name),
            [int(word) for word in np.asarray(key)],
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, key, position, has_gauss, numpy_gauss = states["numpy"]
    np.random.set_state((name, np.asarray(key, dtype=np.uint32), position, has_gauss, numpy_gauss))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
