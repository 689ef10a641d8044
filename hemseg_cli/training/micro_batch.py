"""Compute the gradient of a batch, in parts where no patch depends on another, to save memory."""

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hemseg_cli.core.errors import UsageError
from hemseg_cli.training.batches import Batch
from hemseg_cli.training.losses import Loss
from hemseg_cli.training.state import TrainState

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig

# On a CPU: as many voxels as keep both cores busy; more gain nothing, and their memory costs time
# (`benchmarks/train.py epoch`).
_CPU_VOXELS = 4 * 256 * 256 * 16
_CPU_FEWEST = 2


def coupling_of(train: "TrainConfig", network: nn.Module) -> str | None:
    """Say why the patches of a batch depend on each other, so that it cannot be taken in parts.

    None if they do not.
    """
    if train.loss.dice > 0 and train.loss.dice_over_batch:
        return "the Dice is over the batch (train.loss.dice_over_batch)"
    if any(isinstance(layer, _BatchNorm) for layer in network.modules()):
        return f"{train.model} normalises over the batch"
    return None


def micro_batch(train: "TrainConfig", network: nn.Module, device: torch.device) -> int:
    """Choose the patches that go through together: `train.micro_batch`, or what suits the device.

    UsageError where a batch cannot be taken in parts.
    """
    bound = coupling_of(train, network)
    if train.micro_batch is None:
        few = max(_CPU_FEWEST, _CPU_VOXELS // math.prod(train.patch))
        return few if device.type == "cpu" and bound is None else train.batch_size
    if train.micro_batch < train.batch_size and bound is not None:
        raise UsageError(
            f"train.micro_batch = {train.micro_batch} with "
            f"train.batch_size = {train.batch_size}: {bound}",
            hint="leave it out, or lower train.batch_size   to save memory",
        )
    return train.micro_batch


def add_gradient(state: TrainState, batch: Batch, loss: Loss) -> Tensor:
    """Add the gradient of the batch's loss to the weights' (times the gradient scaler's scale).

    Returns the loss, a scalar on the device, so that the caller decides when to wait for it.
    """
    total = torch.zeros((), device=state.device)
    parts = list(
        zip(
            batch.images.split(state.micro_batch),
            batch.labels.split(state.micro_batch),
            strict=True,
        )
    )
    for number, (images, labels) in enumerate(parts):
        with _averaged(state.parallel, now=number + 1 == len(parts)):
            share = len(images) / len(batch.images)
            part = share * loss(_forward(state, images), labels.to(state.device, non_blocking=True))
            state.scaler.scale(part).backward()
        total += part.detach()
    return total


def _forward(state: TrainState, images: Tensor) -> Any:
    """Compute the logits in float32: one tensor, or a list where several levels are supervised."""
    images = images.to(state.device, non_blocking=True)
    if state.config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(
        state.device.type, dtype=state.precision, enabled=state.precision != torch.float32
    ):
        output = state.parallel(images)
    return (
        [level.float() for level in output] if isinstance(output, list | tuple) else output.float()
    )


def _averaged(network: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """Average the gradients of several processes once a batch, with its last part."""
    return (
        network.no_sync()
        if isinstance(network, DistributedDataParallel) and not now
        else contextlib.nullcontext()
    )
