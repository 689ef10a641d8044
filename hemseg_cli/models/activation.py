"""Turn a network's logits into probabilities: one sigmoid a class, or softmax over all of them.

Softmax is over the classes and the background, whose logit is 0: a network has one output a class
either way, and with one class both are the sigmoid.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["sigmoid", "softmax"]


def probabilities(
    logits: Tensor, activation: Activation, *, axis: int, in_place: bool = False
) -> Tensor:
    """Return the probability of each class; `axis` is that of the classes.

    sigmoid: each class for itself, so that several may lie on one voxel. softmax: at most one does,
    and the probabilities with that of the background sum to 1.

    `in_place` may overwrite the logits, which saves the memory of a copy in prediction.
    """
    if activation == "sigmoid":
        return torch.sigmoid_(logits) if in_place else torch.sigmoid(logits)
    return torch.exp(logits - log_sum(logits, axis=axis))


def log_sum(logits: Tensor, *, axis: int) -> Tensor:
    """Return log(1 + sum of exp(logit)) over the classes, the axis kept.

    A class has the log probability logit - log_sum, the background -log_sum.
    """
    return functional.softplus(torch.logsumexp(logits, dim=axis, keepdim=True))
