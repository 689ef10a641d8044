"""Let a network start from the probability of hemorrhage, not from 0.5.

Lin et al., Focal Loss, 2017, section 3.3.

Else the first steps of every training teach the network no more than that hemorrhage is rare.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def set_output_bias(
    network: nn.Module, probability: float, shape: Sequence[int], classes: int = 1
) -> None:
    """Set the biases of the output layers so that the network answers about `probability`.

    `shape`: an input [n, c, i, j, k]; `classes`: the number of output channels.

    An output layer's bias is one that moves its output by exactly itself, whatever the
    architecture: its gradient there is the number of voxels. A network without one is left as it
    is. An output layer of a single weight (V-Net's) gets 1: drawn near 0 or below, the optimiser
    would need hundreds of steps to bring it to where any voxel can be told from the others.
    """
    parameters = dict(network.named_parameters())
    names = [
        name
        for name, bias in parameters.items()
        if name.endswith("bias") and bias.numel() == classes
    ]
    biases = [parameters[name] for name in names]
    statistics = [(buffer, buffer.clone()) for buffer in network.buffers()]
    output = network(torch.zeros(tuple(shape)))
    for level in [output] if isinstance(output, Tensor) else output:
        gradients = torch.autograd.grad(level.sum(), biases, retain_graph=True, allow_unused=True)
        own = [
            name
            for name, slope in zip(names, gradients, strict=True)
            if slope is not None
            and all(_is(each, level.numel() / classes) for each in slope.tolist())
        ]
        with torch.no_grad():
            for number, name in enumerate(own):  # two where a residual connection ends the network
                parameters[name].fill_(0.0 if number else math.log(probability / (1 - probability)))
                weight = parameters.get(name.removesuffix("bias") + "weight")
                if weight is not None and weight.numel() == 1:
                    weight.fill_(1.0)
    for buffer, before in statistics:
        buffer.copy_(before)


def _is(slope: float, voxels: float) -> bool:
    return math.isclose(slope, voxels, rel_tol=1e-3)
