"""Layers that a CPU computes several times faster than torch's own, with the same weights and the same answers.

A patch of 16 slices has one or two of them left at the deeper levels of a network, and most of a
kernel's weights along them meet nothing but padding. Taken as channels of one plane, the slices
need only the weights that meet others. A convolution with one output channel, which no library
vectorises well, gains the same way; so do the gradient of a PReLU with one slope, computed without
a tensor of slopes, and an instance normalisation in float32, computed as a group normalisation. The
two convolutions that a residual unit begins with take the same input and are computed as one. In
float32, training filters convolutions over more slices along them (see `winograd`).

Torch's own layers (2.13 with oneDNN) are also not safe there in bfloat16: the gradients of their
weights are now and then not finite, and V-Net lost every fourth batch by it. On other devices,
where nothing is gained, and for export torch's own layer is used. Measured by `benchmarks/train.py
epoch`.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from torch import Tensor, nn
from torch.nn import functional

from hemseg_cli.models import winograd

_MOST_SLICES_TO_ONE_CHANNEL = 32
_FEWEST_FILTERED_CHANNELS = 8

Numbers = tuple[int, int, int]


class ShallowConv3d(nn.Conv3d):
    """Conv3d on [n, c, i, j, k] that is computed in planes where that is faster.

    Parameters and results are Conv3d's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x."""
        if not _may_differ_from_torch(x):
            return super().forward(x)
        return _convolution(x, self.weight, self.bias, self.stride, _numbers(self.padding))


class JoinedResidualUnit(ResidualUnit):
    """MONAI's ResidualUnit whose first convolution and residual, alike but for their weights, are computed as one."""

    def forward(self, x: Tensor) -> Tensor:
        """The unit's answer to x."""
        if not _may_differ_from_torch(x):
            return super().forward(x)
        first, *units = self.conv
        own, *rest = first.children()
        other = self.residual
        assert isinstance(own, nn.Conv3d)
        assert isinstance(other, nn.Conv3d)
        weight = torch.cat([own.weight, other.weight])
        bias = None if own.bias is None or other.bias is None else torch.cat([own.bias, other.bias])
        answer, residual = _convolution(x, weight, bias, own.stride, _numbers(own.padding)).chunk(
            2, dim=1
        )
        for layer in (*rest, *units):
            answer = layer(answer)
        return answer + residual


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Numbers
) -> Tensor:
    """[n, c, i, j, k] with [o, c, ki, kj, kk] -> [n, o, i, j, k].

    Filtered, or in one plane where k is small, or as torch does.
    """
    depth, kernel = x.shape[-1], weight.shape[-1]
    if _is_filtered(x, weight, stride, padding):
        return winograd.convolution(
            x, weight, bias, (stride[0], stride[1]), (padding[0], padding[1])
        )
    most = _MOST_SLICES_TO_ONE_CHANNEL if len(weight) == 1 else (kernel + 1) // 2
    if kernel == 1 or depth > most:
        return functional.conv3d(x, weight, bias, tuple(stride), padding)
    (si, sj, step), (pi, pj, pad) = stride, padding
    new_depth = (depth + 2 * pad - kernel) // step + 1
    taps = torch.arange(depth) - step * torch.arange(new_depth)[:, None] + pad
    flat = _by_slices(weight, taps).permute(4, 0, 5, 1, 2, 3)  # [new, o, old, c, ki, kj]
    flat = _contiguous(flat).view(
        new_depth * len(weight), depth * weight.shape[1], *weight.shape[2:4]
    )
    bias = None if bias is None else bias.repeat(new_depth)
    return _from_plane(
        functional.conv2d(_to_plane(x), flat, bias, stride=(si, sj), padding=(pi, pj)), new_depth
    )


def _is_filtered(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Numbers) -> bool:
    """Where it gains: in training. A single window is predicted no faster by it, in more memory."""
    fits = (weight.shape[-1], stride[2], padding[2]) == (3, 1, 1) and winograd.is_filtered(
        x.shape[-1]
    )
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return (
        torch.is_grad_enabled()
        and fits
        and exact
        and min(weight.shape[:2]) >= _FEWEST_FILTERED_CHANNELS
    )


class ShallowConvTranspose3d(nn.ConvTranspose3d):
    """ConvTranspose3d on [n, c, i, j, k] that works in the plane where k is 1.

    Parameters and results are ConvTranspose3d's.
    """

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """The transposed convolution of x."""
        depth, kernel = x.shape[-1], self.kernel_size[2]
        if output_size or not _may_differ_from_torch(x):
            return super().forward(x, output_size)
        if self.out_channels == 1:
            answer: Tensor = _ToOneChannel.apply(
                x, self.weight, self.stride, _numbers(self.padding), self.output_padding
            )  # type: ignore[no-untyped-call]
            return answer if self.bias is None else answer + self.bias
        if kernel == 1 or depth > 1:
            return super().forward(x)
        (si, sj, _), (pi, pj, pad), (oi, oj, more) = (
            self.stride,
            _numbers(self.padding),
            self.output_padding,
        )
        new_depth = kernel - 2 * pad + more
        weight = _by_slices(self.weight, torch.arange(new_depth) + pad).permute(
            0, 4, 1, 2, 3
        )  # [c, new, o, ki, kj]
        weight = _contiguous(weight).view(
            self.in_channels, new_depth * self.out_channels, *weight.shape[3:]
        )
        bias = None if self.bias is None else self.bias.repeat(new_depth)
        plane = functional.conv_transpose2d(
            x[..., 0], weight, bias, stride=(si, sj), padding=(pi, pj), output_padding=(oi, oj)
        )
        return _from_plane(plane, new_depth)


class _ToOneChannel(torch.autograd.Function):
    """A transposed convolution to one channel.

    A matrix product for all weights of the kernel, whose rows are added where they belong.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def forward(
        context: Any, x: Tensor, weight: Tensor, stride: Numbers, padding: Numbers, more: Numbers
    ) -> Tensor:
        context.save_for_backward(x, weight)
        context.stride, context.padding = stride, padding
        products = torch.bmm(weight.flatten(1).t().expand(len(x), -1, -1), x.flatten(2)).unflatten(
            2, x.shape[2:]
        )  # [n, ki kj kk, i, j, k]
        reach = [
            (n - 1) * step + kernel
            for n, step, kernel in zip(x.shape[2:], stride, weight.shape[2:], strict=True)
        ]
        sizes = [
            whole - 2 * pad + extra for whole, pad, extra in zip(reach, padding, more, strict=True)
        ]
        shape = (x.shape[0], *(whole + extra for whole, extra in zip(reach, more, strict=True)))
        total = products.new_zeros(shape, dtype=torch.promote_types(products.dtype, torch.float32))
        for number, place in enumerate(_places(x.shape[2:], weight.shape[2:], stride)):
            total[place] += products[:, number]
        i, j, k = (slice(pad, pad + size) for pad, size in zip(padding, sizes, strict=True))
        answer: Tensor = total[:, i, j, k].unsqueeze(1).to(products.dtype)
        return answer

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight = context.saved_tensors
        [gradient] = gradients
        around = [
            (pad, kernel) for pad, kernel in zip(context.padding, weight.shape[2:], strict=True)
        ]
        padded = functional.pad(
            gradient[:, 0], [number for pair in reversed(around) for number in pair]
        )
        parts = [padded[place] for place in _places(x.shape[2:], weight.shape[2:], context.stride)]
        stacked = torch.stack(parts, dim=1).flatten(2)  # [n, ki kj kk, i j k]
        to_x = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), stacked).view_as(x).to(x.dtype)
        to_weight = (
            torch.bmm(x.flatten(2), stacked.transpose(1, 2)).sum(0).view_as(weight).to(weight.dtype)
        )
        return to_x, to_weight, None, None, None


def _places(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each weight of a kernel.

    Where the products with it belong, counted from the first voxel that any of them reaches.
    """
    for offsets in itertools.product(*(range(n) for n in kernel)):
        steps = zip(offsets, size, stride, strict=True)
        yield (
            slice(None),
            *(slice(offset, offset + (n - 1) * step + 1, step) for offset, n, step in steps),
        )


class ChannelGroupNorm3d(nn.InstanceNorm3d):
    """InstanceNorm3d without running statistics, as the group normalisation that it is with one channel a group."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x, each channel of each patch by itself."""
        if not _may_differ_from_torch(x) or x[0, 0].numel() == 1:  # which torch refuses
            return super().forward(x)
        return functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


class OneSlopePReLU(nn.PReLU):
    """PReLU with one slope for all channels."""

    def forward(self, x: Tensor) -> Tensor:
        """The positive part of x, and the slope times the negative."""
        if not _may_differ_from_torch(x):
            return super().forward(x)
        answer: Tensor = _LeakyReLU.apply(x, self.weight)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return answer


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, slope: Tensor) -> Tensor:
        context.save_for_backward(x, slope)
        return functional.leaky_relu(x, float(slope))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = context.saved_tensors
        [gradient] = gradients
        to_x: Tensor = torch.ops.aten.leaky_relu_backward(gradient, x, float(slope), False)
        return to_x, _sum_of_products(gradient, x.clamp(max=0), slope.dtype).view_as(slope)


def _sum_of_products(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`. A product of vectors writes no products, but sums in the type of its factors."""
    return (
        torch.dot(a.flatten(), b.flatten())
        if a.dtype == b.dtype == dtype
        else (a * b).sum(dtype=dtype)
    )


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: ShallowConv3d,
    nn.ConvTranspose3d: ShallowConvTranspose3d,
    nn.InstanceNorm3d: ChannelGroupNorm3d,
    nn.PReLU: OneSlopePReLU,
    ResidualUnit: JoinedResidualUnit,
}


def use_cpu_layers(network: nn.Module) -> None:
    """Replace the layers of the network that have a faster one here.

    Its weights and their names stay as they are.
    """
    for layer in network.modules():
        faster = _FASTER.get(type(layer))
        if faster is not None and _is_plain(layer):
            layer.__class__ = faster


def use_torchs_layers(network: nn.Module) -> None:
    """Undo `use_cpu_layers`: what a comparison with torch's own needs."""
    torchs = {faster: own for own, faster in _FASTER.items()}
    for layer in network.modules():
        layer.__class__ = torchs.get(type(layer), type(layer))


def _is_plain(layer: nn.Module) -> bool:
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters == 1
    if isinstance(layer, nn.InstanceNorm3d):
        return not layer.track_running_stats
    if isinstance(layer, ResidualUnit):
        return _may_be_joined(layer)
    if not isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
        return False
    return (
        layer.groups == 1
        and set(layer.dilation) == {1}
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _may_be_joined(unit: ResidualUnit) -> bool:
    own, other = next(unit.conv[0].children()), unit.residual
    if (
        not isinstance(own, nn.Conv3d)
        or not isinstance(other, nn.Conv3d)
        or not _is_plain(own)
        or not _is_plain(other)
    ):
        return False
    alike = all(
        getattr(own, name) == getattr(other, name) for name in ("kernel_size", "stride", "padding")
    )
    return alike and (own.bias is None) == (other.bias is None)


def _may_differ_from_torch(x: Tensor) -> bool:
    """In how it is computed: a batch on a CPU, and not while it is traced for export."""
    return x.device.type == "cpu" and x.ndim == 5 and not torch.compiler.is_exporting()


def _numbers(padding: str | tuple[int, ...]) -> Numbers:
    i, j, k = (int(number) for number in padding)
    return i, j, k


def _by_slices(weight: Tensor, taps: Tensor) -> Tensor:
    """[.., new, old]: the weight between each new and each old slice.

    0 where the kernel does not reach. `taps`: the kernel's index.
    """
    reached = (taps >= 0) & (taps < weight.shape[-1])
    return weight[..., taps.clamp(0, weight.shape[-1] - 1)] * reached.to(weight.dtype)


def _contiguous(weight: Tensor) -> Tensor:
    """A copy in plain order: torch's convolution of float64 refuses the strides that axes of size 1 may keep."""
    return weight.clone(memory_format=torch.contiguous_format)


def _to_plane(x: Tensor) -> Tensor:
    """[n, c, i, j, k] -> [n, k c, i, j]."""
    n, c, i, j, k = x.shape
    return x.permute(0, 4, 1, 2, 3).reshape(n, k * c, i, j)


def _from_plane(plane: Tensor, depth: int) -> Tensor:
    """[n, k c, i, j] -> [n, c, i, j, k]."""
    n, channels, i, j = plane.shape
    return plane.view(n, depth, channels // depth, i, j).permute(0, 2, 3, 4, 1)
