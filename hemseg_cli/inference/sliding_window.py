"""Slide windows over an image, average their logits, and turn these into probabilities.

`sliding_window` lays windows, weights and padding as MONAI's `sliding_window_inference` does, so
that its result is the sigmoid or softmax of MONAI's, voxel by voxel. `run_windows` takes any
windows, of any sizes: those that are worth computing (see `windows`).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hemseg_cli.models.activation import Activation, probabilities

Weighting = Literal["gaussian", "constant"]
Network = Callable[[Tensor], Any]
Size = tuple[int, int, int]

_SIGMA_SCALE = 0.125  # MONAI's


class NonFiniteError(ValueError):
    """A network's logits are NaN or infinite."""


@dataclass(frozen=True)
class WindowBox:
    """A box of voxels.

    Where it reaches beyond the image (`start` may be negative) the image is padded.
    """

    start: Size
    size: Size

    def inside(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The part of an image of that shape that the window covers."""
        i, j, k = (
            slice(max(a, 0), min(a + n, extent))
            for a, n, extent in zip(self.start, self.size, shape, strict=True)
        )
        return i, j, k

    def own(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The same part, in the window's own voxels."""
        i, j, k = (
            slice(part.start - a, part.stop - a)
            for part, a in zip(self.inside(shape), self.start, strict=True)
        )
        return i, j, k


@dataclass(frozen=True)
class ForwardOptions:
    """How windows are computed.

    `mirror_axes`: the axes of the image (0, 1, 2) over whose flips the logits are averaged;
    `precision`: float32, or a half precision for autocast; `channels_last`: memory format of the
    input; `require_finite`: logits that are NaN or infinite raise NonFiniteError.
    """

    device: torch.device
    batch: int = 1
    mirror_axes: tuple[int, ...] = ()
    precision: torch.dtype = torch.float32
    channels_last: bool = False
    require_finite: bool = False
    activation: Activation = "sigmoid"


def sliding_window(
    network: Network,
    image: Tensor,
    *,
    patch: Sequence[int],
    overlap: float = 0.25,
    weighting: Weighting = "gaussian",
    device: torch.device | str | None = None,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    precision: torch.dtype = torch.float32,
    activation: Activation = "sigmoid",
    occupied: Tensor | None = None,
    pad_value: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the probability of each voxel, float32 on the image's device.

    [i, j, k] of a network with one class, [classes, i, j, k] of one with several.

    `network`: [n, c, i, j, k] -> logits [n, classes, i, j, k], in eval mode. `image`: float32
    [c, i, j, k]; axes shorter than the window are padded with `pad_value` (one number, or one per
    channel) on both sides. `overlap`: share of a window that overlaps the next one, 0 to below 1.
    `device`: where the network stands (None: where the image is). `mirror_axes`: test-time
    augmentation, the mean over each window and its flips along these axes (0, 1, 2) and all their
    combinations. `occupied`: bool [i, j, k]; windows without a True voxel are skipped, and a voxel
    that no window covers has probability 0.
    """
    i, j, k = (int(n) for n in patch)
    options = ForwardOptions(
        torch.device(device) if device is not None else image.device,
        batch,
        tuple(mirror_axes),
        precision,
        activation=activation,
    )
    windows = [
        window
        for window in regular_windows(image.shape[1:], (i, j, k), overlap)
        if occupied is None or bool(occupied[window.inside(image.shape[1:])].any())
    ]
    return run_windows(
        network, image, windows, options=options, weighting=weighting, pad_value=pad_value
    )


def regular_windows(shape: Sequence[int], patch: Size, overlap: float) -> Iterator[WindowBox]:
    """Lay windows as MONAI does: at a fixed step, the last one moved back to end with the image.

    An image smaller than the window lies in its middle.
    """
    from monai.data.utils import dense_patch_slices

    padded = [max(extent, size) for extent, size in zip(shape, patch, strict=True)]
    before = [(total - extent) // 2 for total, extent in zip(padded, shape, strict=True)]
    steps = tuple(
        size if size == extent else max(1, int(size * (1 - overlap)))
        for extent, size in zip(padded, patch, strict=True)
    )
    for box in dense_patch_slices(tuple(padded), patch, steps):
        i, j, k = (int(part.start) - pad for part, pad in zip(box, before, strict=True))
        yield WindowBox((i, j, k), patch)


def run_windows(
    network: Network,
    image: Tensor,
    windows: Sequence[WindowBox],
    *,
    options: ForwardOptions,
    weighting: Weighting = "gaussian",
    pad_value: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the probability of each voxel of `image` [c, i, j, k]: float32, as `sliding_window`.

    It is on the image's device, and 0 where no window lies. NonFiniteError where `options` ask for
    finite logits and they are not.
    """
    fill = torch.as_tensor(pad_value, dtype=image.dtype, device=image.device).expand(image.shape[0])
    half = options.precision != torch.float32
    autocast = torch.autocast(
        options.device.type, dtype=options.precision if half else None, enabled=half
    )

    with torch.inference_mode(), autocast:
        if len(windows) == 1:
            return _one_window(network, image, windows[0], options, fill)

        total, weights = _weighted_logits(network, image, windows, options, weighting, fill)
        _refuse_non_finite(total, options)

        # A voxel that no window covers has weight 0 and must not become sigmoid(0) = 0.5.
        seen = weights > 0
        mean = total.div_(weights.clamp_(min=torch.finfo(torch.float32).tiny))
        probability = probabilities(mean, options.activation, axis=0, in_place=True)
        return _of_classes(probability.mul_(seen).to(image.device))


def _one_window(
    network: Network, image: Tensor, window: WindowBox, options: ForwardOptions, fill: Tensor
) -> Tensor:
    """The probability where one window holds all that is computed: no weights, no sums."""
    shape = image.shape[1:]
    logits = _logits(network, [_view(image, window, fill)], options)[0]
    _refuse_non_finite(logits, options)

    probability = torch.zeros((len(logits), *shape), dtype=torch.float32, device=image.device)
    seen = probabilities(logits, options.activation, axis=0, in_place=True).to(image.device)
    probability[:, *window.inside(shape)] = seen[:, *window.own(shape)]
    return _of_classes(probability)


def _of_classes(probability: Tensor) -> Tensor:
    """Drop the axis of the classes where there is one."""
    return probability[0] if len(probability) == 1 else probability


def _weighted_logits(
    network: Network,
    image: Tensor,
    windows: Sequence[WindowBox],
    options: ForwardOptions,
    weighting: Weighting,
    fill: Tensor,
) -> tuple[Tensor, Tensor]:
    """The sum of the windows' weighted logits [classes, i, j, k], and of the weights [i, j, k]."""
    shape = tuple(image.shape[1:])
    weights = torch.zeros(shape, dtype=torch.float32, device=options.device)
    total = weights.new_zeros((1, *shape))

    for some in _batches(windows, options.batch):
        weight = _weight(some[0].size, weighting, options.device)
        views = [_view(image, window, fill) for window in some]

        for window, logits in zip(some, _logits(network, views, options), strict=True):
            inside, own = window.inside(shape), window.own(shape)
            # How many classes there are is known with the first window.
            if len(total) < len(logits):
                total = weights.new_zeros((len(logits), *shape))
            total[:, *inside] += logits.mul_(weight)[:, *own]
            weights[inside] += weight[own]

    return total, weights


def _refuse_non_finite(logits: Tensor, options: ForwardOptions) -> None:
    if options.require_finite and not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise NonFiniteError(
            f"the network's output is not finite (NaN or infinite) "
            f"in {bad} of {logits.numel()} voxels"
        )


def _batches(windows: Sequence[WindowBox], batch: int) -> Iterator[list[WindowBox]]:
    """Up to `batch` windows of one size at a time, in their order."""
    for _, same in itertools.groupby(windows, key=lambda window: window.size):
        alike = list(same)
        for start in range(0, len(alike), batch):
            yield alike[start : start + batch]


def _logits(network: Network, views: Sequence[Tensor], options: ForwardOptions) -> Tensor:
    """The network's logits for each view, float32 [n, classes, i, j, k].

    With `mirror_axes` the mean over flips.
    """
    inputs = (torch.stack(list(views)) if len(views) > 1 else views[0][None]).to(options.device)
    if options.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
    total: Tensor = network(inputs).float()
    if not options.mirror_axes:
        return total

    # Each combination of the axes, the empty one is done; behind batch and channel stand the axes.
    flips = [
        tuple(axis + 2 for axis in axes)
        for count in range(1, len(options.mirror_axes) + 1)
        for axes in itertools.combinations(options.mirror_axes, count)
    ]
    for axes in flips:
        total = total + network(inputs.flip(axes)).float().flip(axes)
    return total.div_(1 + len(flips))


def _view(image: Tensor, window: WindowBox, fill: Tensor) -> Tensor:
    shape = image.shape[1:]
    inside = window.inside(shape)
    part = image[:, *inside]
    if tuple(part.shape[1:]) == window.size:
        return part
    padded = fill[:, None, None, None].repeat(1, *window.size)
    padded[:, *window.own(shape)] = part
    return padded


def _weight(size: Size, weighting: Weighting, device: torch.device) -> Tensor:
    from monai.data.utils import compute_importance_map

    weight: Tensor = compute_importance_map(
        size, mode=weighting, sigma_scale=_SIGMA_SCALE, device=device, dtype=torch.float32
    )
    return weight.expand(size)
