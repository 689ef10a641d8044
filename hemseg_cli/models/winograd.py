"""Convolution with three weights along the slices in half the multiplications, by Winograd's minimal filtering (Lavin and Gray, 2016).

Four slices of a result are a combination of six products instead of twelve (F(4, 3)), two slices of
a volume of two of three instead of four. The slices of input and result are combined by small
matrices; the products are convolutions of planes, with the weights combined the same way, as groups
of one convolution. In float32 the error is about twice that of the direct sum; in bfloat16 it would
be too large.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]


class Filtering(NamedTuple):
    """result = output @ ((weights @ w) * (input @ x)) along the slices.

    The first column of `output` is 1, which is where the bias goes.
    """

    input: Tensor  # [blocks * products, slices]
    weights: Tensor  # [products, 3]
    output: Tensor  # [slices, blocks * products]


def is_filtered(depth: int) -> bool:
    """Whether there is a filtering for so many slices."""
    return depth == 2 or depth % 4 == 0


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """conv3d of x [n, c, i, j, k] with weight [o, c, ki, kj, 3], stride 1 and padding 1 along k, those given along i and j.

    The number of slices must be 2 or a multiple of 4 (`is_filtered`), the type float32 or float64.
    """
    answer: Tensor = _Convolution.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return answer


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        context.save_for_backward(x, weight)
        context.stride, context.padding, context.biased = stride, padding, bias is not None
        by = _filtering(x.shape[-1], x.dtype)
        products = len(by.weights)
        if bias is not None:
            bias = functional.pad(bias, (0, (products - 1) * len(bias)))
        planes, weights = _combined(x, by.input, products), _combined_weights(weight, by)
        return _combined_back(
            functional.conv2d(planes, weights, bias, stride, padding, groups=products),
            by.output,
            len(x),
        )

    @staticmethod
    def backward(
        context: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        x, weight = context.saved_tensors
        [gradient] = gradients
        by = _filtering(x.shape[-1], x.dtype)
        products, outputs = len(by.weights), len(weight)
        to_planes, to_weights, to_bias = torch.ops.aten.convolution_backward(
            _combined(gradient, by.output.t(), products),
            _combined(x, by.input, products),
            _combined_weights(weight, by),
            [products * outputs],
            context.stride,
            context.padding,
            [1, 1],
            False,
            [0, 0],
            products,
            [context.needs_input_grad[0], True, context.biased],
        )
        to_x = (
            _combined_back(to_planes, by.input.t(), len(x)) if context.needs_input_grad[0] else None
        )
        to_weight = torch.einsum(
            "pocij,pk->ocijk", to_weights.unflatten(0, (products, outputs)), by.weights
        )
        return to_x, to_weight, to_bias[:outputs] if context.biased else None, None, None


def _combined(x: Tensor, matrix: Tensor, products: int) -> Tensor:
    """[n, c, i, j, k] -> [n blocks, products c, i, j]."""
    n, c, i, j, k = x.shape
    slices = x.reshape(n, c * i * j, k).transpose(1, 2)
    return torch.bmm(matrix.expand(n, -1, -1), slices).view(-1, products * c, i, j)


def _combined_back(planes: Tensor, matrix: Tensor, n: int) -> Tensor:
    """[n blocks, products c, i, j] -> [n, c, i, j, k]."""
    slices = torch.bmm(matrix.expand(n, -1, -1), planes.reshape(n, matrix.shape[1], -1))
    channels = slices.shape[2] // (planes.shape[2] * planes.shape[3])
    answer = planes.new_empty(n, channels, *planes.shape[2:], len(matrix))
    answer.view(n, -1, len(matrix)).copy_(slices.transpose(1, 2))
    return answer  # not a view, which a caller could not add to in place


def _combined_weights(weight: Tensor, by: Filtering) -> Tensor:
    """[o, c, ki, kj, 3] -> [products o, c, ki, kj]."""
    return torch.einsum("ocijk,pk->pocij", weight, by.weights).flatten(0, 1)


@functools.cache
def _filtering(depth: int, dtype: torch.dtype) -> Filtering:
    """For a volume of `depth` slices with air on both sides."""
    if depth == 2:  # of six weights between slices the outer two meet air
        matrices = (
            [[1, 1], [0, 1], [1, 0]],
            [[0, 1, 0], [0, -1, 1], [1, -1, 0]],
            [[1, 1, 0], [1, 0, 1]],
        )
        return Filtering(*(torch.tensor(matrix, dtype=dtype) for matrix in matrices))
    of_input, of_weights, of_output = (
        torch.tensor(matrix, dtype=torch.float64) for matrix in _FOUR_SLICES
    )
    blocks, products = depth // 4, len(of_weights)
    padded = torch.zeros(blocks * products, depth + 2, dtype=torch.float64)
    for block in range(blocks):
        padded[block * products : (block + 1) * products, 4 * block : 4 * block + 6] = of_input
    return Filtering(
        padded[:, 1:-1].to(dtype),
        of_weights.to(dtype),
        torch.block_diag(*[of_output] * blocks).to(dtype),
    )


# F(4, 3) at the points 1, -1, 2, -2, 0 and infinity
_FOUR_SLICES = (
    [
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [4, 0, -5, 0, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    [
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [1 / 4, 0, 0],
        [0, 0, 1],
    ],
    [[1, 1, 1, 1, 1, 0], [1, -1, 2, -2, 0, 0], [1, 1, 4, 4, 0, 0], [1, -1, 8, -8, 0, 1]],
)
