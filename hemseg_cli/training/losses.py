"""Compute the training loss: soft Dice, cross-entropy and focal loss, over several resolutions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from hemseg_cli.training.distributed import Processes

if TYPE_CHECKING:
    from hemseg_cli.config.schema import LossConfig, TrainConfig

Loss = Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]


def make_loss(train: "TrainConfig", processes: Processes | None = None) -> Loss:
    """Make the loss, a function from logits [n, 1, i, j, k] and a label of that shape to a scalar.

    Logits may be a list with the finest first. Coarser outputs are held against the label averaged
    down to their size, each with `deep_supervision` times the weight of the one before; the weights
    sum to 1. `processes`: those that share a batch; a Dice over the batch is over all of it.
    """
    settings = train.loss

    def loss(output: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        outputs = [output] if isinstance(output, Tensor) else list(output)
        weights = [settings.deep_supervision**level for level in range(len(outputs))]
        total = label.new_zeros((), dtype=torch.float32)
        for weight, logits in zip(weights, outputs, strict=True):
            if weight > 0:
                total = total + weight / sum(weights) * _one_output(
                    logits.float(), _at_size(label, logits), settings, processes or Processes()
                )
        return total

    return loss


def dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    smooth: float,
    over_batch: bool,
    processes: Processes | None = None,
) -> Tensor:
    """Compute 1 - soft Dice of sigmoid(logits), as MONAI's DiceLoss(sigmoid=True).

    Milletari et al., V-Net, 2016, with a plain denominator.

    `over_batch`: one Dice over all patches, those of the other `processes` too; else the mean of
    one a patch.
    """
    probability = torch.sigmoid(logits)
    axes = tuple(range(0 if over_batch else 1, logits.ndim))
    overlap = (probability * label).sum(axes)
    size = probability.sum(axes) + label.sum(axes)
    if over_batch and processes is not None:
        overlap, size = processes.all_reduce(torch.stack([overlap, size]))
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean()


def focal_loss(logits: Tensor, label: Tensor, *, gamma: float, positive_weight: float) -> Tensor:
    """Compute the mean of (1 - p_t)^gamma times the cross-entropy (Lin et al., 2017)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    weight = 1 + (positive_weight - 1) * label
    return (weight * (1 - torch.exp(-entropy)) ** gamma * entropy).mean()


def _one_output(
    logits: Tensor, label: Tensor, settings: "LossConfig", processes: Processes
) -> Tensor:
    total = logits.new_zeros(())
    if settings.dice > 0:
        dice = dice_loss(
            logits,
            label,
            smooth=settings.dice_smooth,
            over_batch=settings.dice_over_batch,
            processes=processes,
        )
        total = total + settings.dice * dice
    if settings.cross_entropy > 0:
        weight = logits.new_full((), settings.positive_weight)
        total = total + settings.cross_entropy * functional.binary_cross_entropy_with_logits(
            logits, label, pos_weight=weight
        )
    if settings.focal > 0:
        focal = focal_loss(
            logits, label, gamma=settings.focal_gamma, positive_weight=settings.positive_weight
        )
        total = total + settings.focal * focal
    return total


def _at_size(label: Tensor, logits: Tensor) -> Tensor:
    if label.shape[2:] == logits.shape[2:]:
        return label
    return functional.adaptive_avg_pool3d(
        label, (logits.shape[2], logits.shape[3], logits.shape[4])
    )
