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
    """Make the loss, a function from logits [n, c, i, j, k] and a label of that shape to a scalar.

    One channel a class. Where a label is UNKNOWN (-1), all over a channel of a patch, nothing is
    learnt: partial labels do not punish what they do not name.

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
    one a patch. One Dice a class; the mean over those that are known.
    """
    probability = torch.sigmoid(logits)
    space = tuple(range(2, logits.ndim))
    axes = (0, *space) if over_batch else space
    several = logits.shape[1] > 1
    known = (label >= 0).float() if several else torch.ones((), device=label.device)
    if several:
        probability, label = probability * known, label * known

    overlap = (probability * label).sum(axes)
    size = probability.sum(axes) + label.sum(axes)
    weight = known.amax(axes) if several else torch.ones_like(size)
    if over_batch and processes is not None:
        overlap, size, weight = processes.all_reduce(torch.stack([overlap, size, weight]))

    each = 1 - (2 * overlap + smooth) / (size + smooth)
    if not several:
        return each.mean()
    weight = (weight > 0).float()
    return (weight * each).sum() / weight.sum().clamp(min=1)


def focal_loss(logits: Tensor, label: Tensor, *, gamma: float, positive_weight: float) -> Tensor:
    """Compute the mean of (1 - p_t)^gamma times the cross-entropy (Lin et al., 2017)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    weight = 1 + (positive_weight - 1) * label
    return _mean_of_known(weight * (1 - torch.exp(-entropy)) ** gamma * entropy, label)


def _mean_of_known(values: Tensor, label: Tensor) -> Tensor:
    """The mean over the voxels [n, c, i, j, k] whose class is known; one class always is."""
    if label.shape[1] == 1:
        return values.mean()
    known = label >= 0
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)


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
        entropy = functional.binary_cross_entropy_with_logits(
            logits, label, pos_weight=weight, reduction="none"
        )
        total = total + settings.cross_entropy * _mean_of_known(entropy, label)
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
