"""A running mean of the weights, which is validated and predicted with in place of the last weights."""

import copy

import torch
from torch import nn


class WeightMean:
    """Exponential moving average with a warm-up.

    Decay min(d, (1 + n) / (10 + n)) at step n, so that early weights are forgotten soon.

    (The warm-up is that of `tf.train.ExponentialMovingAverage`.) Buffers such as batch statistics
    are copied. A decay of 0 keeps no mean: `network` is then the trained network itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._source = network
        self._decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False) if decay > 0 else network

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1)."""
        if self.network is self._source:
            return
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.network.parameters()), list(self._source.parameters()), weight
        )
        for mean, now in zip(self.network.buffers(), self._source.buffers(), strict=True):
            mean.copy_(now)
