"""Average the weights over the last steps, for validation and prediction."""

import copy

import torch
from torch import nn


class WeightMean:
    """Exponential moving average over a share of the training, with a warm-up.

    `share` times the number of steps of the whole training is the average's time constant, so that
    a short training forgets its first weights as a long one does. The decay at step n is
    min(1 - 1 / (share * steps), (1 + n) / (10 + n)), the second as in TensorFlow's
    `ExponentialMovingAverage`. Buffers such as batch statistics are copied. A share of 0 keeps no
    mean: `network` is then the trained network itself.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self._source = network
        self._share = share
        self.network = copy.deepcopy(network).requires_grad_(False) if share > 0 else network

    @torch.no_grad()
    def update(self, step: int, steps: float) -> None:
        """Take in the weights after optimiser step `step` (from 1) of about `steps`."""
        if self.network is self._source:
            return
        weight = 1 - ema_decay(self._share, step, steps)
        torch._foreach_lerp_(
            list(self.network.parameters()), list(self._source.parameters()), weight
        )
        for mean, now in zip(self.network.buffers(), self._source.buffers(), strict=True):
            mean.copy_(now)


def ema_decay(share: float, step: int, steps: float) -> float:
    """The decay of the average after `step` of `steps` optimiser steps, 0 to below 1."""
    return min(1 - 1 / max(1.0, share * steps), (1 + step) / (10 + step))
