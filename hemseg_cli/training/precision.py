"""Choose the arithmetic of a training, by the device and by what its gradients allow there."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from hemseg_cli.core.devices import precision_for
from hemseg_cli.models.registry import require_model

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig


def training_precision(
    train: "TrainConfig", network: nn.Module, device: torch.device
) -> torch.dtype:
    """Return what `train.precision` means for this network on this device.

    `auto` is what the hardware gains by, and float32 on a CPU where the gradients of bfloat16 are
    not to be trusted: see `bfloat16_gradients_hold`.
    """
    precision = precision_for(train.precision, device)
    if train.precision != "auto" or device.type != "cpu" or precision != torch.bfloat16:
        return precision
    channels = len(train.windows)
    # The transformers compute with the numbers of their shapes, which shapes alone do not have.
    holds = require_model(train.model).convolutional and bfloat16_gradients_hold(
        network, channels, train.patch
    )
    return precision if holds else torch.float32


def bfloat16_gradients_hold(network: nn.Module, channels: int, patch: Sequence[int]) -> bool:
    """Say whether a CPU computes the gradients of all convolutions right in bfloat16.

    With torch 2.13 (oneDNN) the gradient of a convolution's weights holds memory that was never
    written where the input is shorter than the kernel along its first axis, or has one voxel along
    the second under a kernel of five: it is wrong, different at each call, now and then not finite.
    Found by comparing such layers with float32 for all inputs of 1 to 8 voxels along each axis;
    followed here on shapes alone.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    short = False

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        nonlocal short
        assert isinstance(layer, nn.Conv3d)
        first, second, _ = inputs[0].shape[2:]
        short |= first < layer.kernel_size[0] or second < layer.kernel_size[1] // 2

    for layer in shapes.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(look)
    shapes(torch.zeros(1, channels, *patch, device="meta"))
    return not short
