"""Optimisers, and learning rates as a function of how much of the training is done."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig

_WARMUP_START = 0.01


def make_optimizer(
    network: nn.Module, train: "TrainConfig", *, fused: bool = True
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over the trainable weights.

    `fused`: one kernel a step; not with a gradient scaler.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if train.optimiser == "sgd":
        return torch.optim.SGD(
            weights,
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            nesterov=train.momentum > 0,
            fused=fused,
        )
    return torch.optim.AdamW(
        weights,
        lr=train.lr,
        betas=(train.momentum, 0.999),
        weight_decay=train.weight_decay,
        fused=fused,
    )


class LearningRateSchedule:
    """Set the learning rate of an optimiser from the share of the training that is done."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, train: "TrainConfig", total_steps: int
    ) -> None:
        self._optimizer, self._train, self._total_steps = optimizer, train, max(1, total_steps)
        self._fraction = 0.0
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Set the rate of the next step, when `fraction` [0, 1] of the training is done."""
        self._fraction = min(1.0, max(0.0, fraction))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._train, self._fraction, total_steps=self._total_steps)

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"fraction": self._fraction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.set_progress(float(state["fraction"]))


def learning_rate(train: "TrainConfig", fraction: float, *, total_steps: int) -> float:
    """The learning rate when `fraction` of the training is done.

    poly: (1 - f)^power (Chen et al., DeepLab, 2017). cosine: Loshchilov and Hutter, SGDR, 2017.
    step: as torch's StepLR, by epochs. In the first `train.warmup` of the training it rises
    linearly to the highest rate, from which the others then fall.
    """
    import math

    if fraction < train.warmup:
        return train.lr * (_WARMUP_START + (1 - _WARMUP_START) * fraction / train.warmup)
    # The last step is taken at a rate above zero.
    done = min((fraction - train.warmup) / (1 - train.warmup), 1 - 0.5 / total_steps)
    if train.schedule == "poly":
        return float(train.lr * (1 - done) ** train.poly_power)
    if train.schedule == "cosine":
        return train.lr * (1 + math.cos(math.pi * done)) / 2
    if train.schedule == "step":
        epoch = int(fraction * train.epochs + 1e-6)
        return float(
            train.lr * train.step_factor ** (min(epoch, train.epochs - 1) // train.step_epochs)
        )
    return train.lr
