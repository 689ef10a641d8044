"""Compute the training loss: soft Dice, cross-entropy and focal loss, over several resolutions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from hemseg_cli.models.activation import Activation, log_sum, probabilities
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
    settings, activation = train.loss, train.activation

    def loss(output: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        outputs = [output] if isinstance(output, Tensor) else list(output)
        weights = [settings.deep_supervision**level for level in range(len(outputs))]
        total = label.new_zeros((), dtype=torch.float32)
        for weight, logits in zip(weights, outputs, strict=True):
            if weight > 0:
                total = total + weight / sum(weights) * _one_output(
                    logits.float(),
                    _at_size(label, logits),
                    settings,
                    activation,
                    processes or Processes(),
                )
        return total

    return loss


def dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    smooth: float,
    over_batch: bool,
    activation: Activation = "sigmoid",
    processes: Processes | None = None,
) -> Tensor:
    """Compute 1 - soft Dice of the probabilities, as MONAI's DiceLoss(sigmoid=True).

    Milletari et al., V-Net, 2016, with a plain denominator.

    `over_batch`: one Dice over all patches, those of the other `processes` too; else the mean of
    one a patch. One Dice a class; of several classes the mean over those that are drawn there: a
    class that is absent would pull all of them towards an empty mask, as most classes are absent
    from most patches (on the five kinds of the phantom every mask was empty after 100 epochs).
    """
    probability = probabilities(logits, activation, axis=1)
    space = tuple(range(2, logits.ndim))
    axes = (0, *space) if over_batch else space
    several = logits.shape[1] > 1
    known = (label >= 0).float() if several else torch.ones((), device=label.device)
    if several:
        probability, label = probability * known, label * known

    overlap = (probability * label).sum(axes)
    size = probability.sum(axes) + label.sum(axes)
    weight = label.amax(axes) if several else torch.ones_like(size)
    if over_batch and processes is not None:
        overlap, size, weight = processes.all_reduce(torch.stack([overlap, size, weight]))

    each = 1 - (2 * overlap + smooth) / (size + smooth)
    if not several:
        return each.mean()
    weight = (weight > 0).float()
    return ((weight * each).sum(-1) / weight.sum(-1).clamp(min=1)).mean()


def cross_entropy(
    logits: Tensor, label: Tensor, *, positive_weight: float, activation: Activation = "sigmoid"
) -> Tensor:
    """Compute the mean cross-entropy; that of hemorrhage voxels counts `positive_weight` times."""
    if activation == "softmax":
        weight = 1 + (positive_weight - 1) * label.clamp(min=0).sum(1)
        return (weight * _exclusive_entropy(logits, label)).mean()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, label, pos_weight=logits.new_full((), positive_weight), reduction="none"
    )
    return _mean_of_known(entropy, label)


def focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float,
    positive_weight: float,
    activation: Activation = "sigmoid",
) -> Tensor:
    """Compute the mean of (1 - p_t)^gamma times the cross-entropy (Lin et al., 2017)."""
    if activation == "softmax":
        entropy = _exclusive_entropy(logits, label)
        weight = 1 + (positive_weight - 1) * label.clamp(min=0).sum(1)
        return (weight * (1 - torch.exp(-entropy)) ** gamma * entropy).mean()
    entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    weight = 1 + (positive_weight - 1) * label
    return _mean_of_known(weight * (1 - torch.exp(-entropy)) ** gamma * entropy, label)


def _exclusive_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The cross-entropy of each voxel [n, i, j, k] between the classes and the background.

    What a data set calls background may be a class that it does not label: the probabilities of
    those are added to the background's.
    """
    total = log_sum(logits, axis=1)
    truth = label.clamp(min=0)
    not_labelled = torch.where(label < 0, logits, -torch.inf)
    background = log_sum(not_labelled, axis=1)[:, 0] - total[:, 0]
    found = (truth * (logits - total)).sum(1)
    return -(found + (1 - truth.sum(1)) * background)


def _mean_of_known(values: Tensor, label: Tensor) -> Tensor:
    """The mean over the voxels [n, c, i, j, k] whose class is known; one class always is."""
    if label.shape[1] == 1:
        return values.mean()
    known = label >= 0
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)


def _one_output(
    logits: Tensor,
    label: Tensor,
    settings: "LossConfig",
    activation: Activation,
    processes: Processes,
) -> Tensor:
    total = logits.new_zeros(())
    if settings.dice > 0:
        dice = dice_loss(
            logits,
            label,
            smooth=settings.dice_smooth,
            over_batch=settings.dice_over_batch,
            activation=activation,
            processes=processes,
        )
        total = total + settings.dice * dice
    if settings.cross_entropy > 0:
        entropy = cross_entropy(
            logits, label, positive_weight=settings.positive_weight, activation=activation
        )
        total = total + settings.cross_entropy * entropy
    if settings.focal > 0:
        focal = focal_loss(
            logits,
            label,
            gamma=settings.focal_gamma,
            positive_weight=settings.positive_weight,
            activation=activation,
        )
        total = total + settings.focal * focal
    return total


def _at_size(label: Tensor, logits: Tensor) -> Tensor:
    if label.shape[2:] == logits.shape[2:]:
        return label
    return functional.adaptive_avg_pool3d(
        label, (logits.shape[2], logits.shape[3], logits.shape[4])
    )
