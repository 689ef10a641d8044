"""Sliding window: a network over an image of any size, the logits of overlapping windows averaged with weights, then the sigmoid.

The windows, weights and padding are MONAI's (`monai.inferers.sliding_window_inference`), so that with `occupied` left out the result is
the sigmoid of MONAI's, voxel by voxel; what this adds is that windows without anything to see are not computed, that a window that covers
the whole image is neither weighted nor copied, and mirrored copies.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

Weighting = Literal["gaussian", "constant"]
Box = tuple[slice, slice, slice]
Network = Callable[[Tensor], Tensor]

# Every combination of the three axes: the identity and seven mirrored copies.
_MIRRORED = tuple(axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count))


def sliding_window(
    network: Network,
    image: Tensor,
    *,
    patch: Sequence[int],
    overlap: float = 0.25,
    weighting: Weighting = "gaussian",
    device: torch.device | str | None = None,
    batch: int = 1,
    tta: bool = False,
    precision: torch.dtype = torch.float32,
    occupied: Tensor | None = None,
    pad_value: float = 0.0,
    channels_last: bool = False,
) -> Tensor:
    """The probability of each voxel, float32 [i, j, k] on the image's device.

    `network`: [n, c, i, j, k] -> logits [n, 1, i, j, k], in eval mode. `image`: float32 [c, i, j, k]; axes shorter than the window are
    padded with `pad_value` on both sides. `overlap`: share of a window that overlaps the next one, 0 to below 1. `device`: where the
    network stands (None: where the image is). `tta`: the mean over the mirrored copies of each window. `precision`: float32, or bfloat16
    or float16 for autocast. `occupied`: bool [i, j, k]; windows without a True voxel are skipped, and a voxel that no window covers has
    probability 0.
    """
    size = (int(patch[0]), int(patch[1]), int(patch[2]))
    target = torch.device(device) if device is not None else image.device
    padded, inner = _pad(image, size, pad_value)
    windows = [window for window in _windows(padded.shape[1:], size, overlap) if _seen(window, occupied, inner)]
    if not windows:
        return torch.zeros(image.shape[1:], dtype=torch.float32, device=image.device)
    with torch.inference_mode(), torch.autocast(target.type, dtype=precision, enabled=precision != torch.float32):
        if len(windows) == 1 and size == tuple(padded.shape[1:]):
            logits = _logits(network, [padded], target, tta=tta, channels_last=channels_last)[0].to(image.device)
            return torch.sigmoid_(logits[inner].clone())
        total, weights = _blend(network, padded, windows, size, weighting, target, batch=batch, tta=tta, channels_last=channels_last)
        seen = weights > 0
        probability = total.div_(weights.clamp_(min=torch.finfo(torch.float32).tiny)).sigmoid_().mul_(seen)
    return probability[inner].to(image.device)


def window_count(shape: Sequence[int], patch: Sequence[int], overlap: float) -> int:
    """How many windows `sliding_window` lays over an image of that shape, none skipped."""
    return sum(1 for _ in _windows([max(n, p) for n, p in zip(shape, patch, strict=True)], patch, overlap))


def _blend(
    network: Network,
    image: Tensor,
    windows: Sequence[Box],
    patch: tuple[int, int, int],
    weighting: Weighting,
    device: torch.device,
    *,
    batch: int,
    tta: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of the windows' logits, and the sum of the weights, both [i, j, k] on the network's device."""
    weight = _weight(patch, weighting, device)
    total = torch.zeros(image.shape[1:], dtype=torch.float32, device=device)
    weights = torch.zeros_like(total)
    for start in range(0, len(windows), batch):
        some = windows[start : start + batch]
        for window, logits in zip(
            some, _logits(network, [image[:, *box] for box in some], device, tta=tta, channels_last=channels_last), strict=True
        ):
            total[window] += logits.mul_(weight)
            weights[window] += weight
    return total, weights


def _logits(network: Network, views: Sequence[Tensor], device: torch.device, *, tta: bool, channels_last: bool) -> Tensor:
    """float32 [n, i, j, k]: the network's answer to each view, the mean of the mirrored copies where `tta`."""
    inputs = torch.stack(list(views)).to(device, non_blocking=True)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
    if not tta:
        return network(inputs)[:, 0].float()
    total: Tensor | None = None
    for axes in _MIRRORED:
        answer = network(inputs.flip(axes)).float().flip(axes)[:, 0]
        total = answer if total is None else total.add_(answer)
    assert total is not None
    return total.div_(len(_MIRRORED))


def _windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> Iterator[Box]:
    from monai.data.utils import dense_patch_slices

    steps = tuple(
        size if size == extent else max(1, int(size * (1 - overlap))) for extent, size in zip(shape, patch, strict=True)
    )  # MONAI's scan interval
    yield from cast(list[Box], dense_patch_slices(tuple(shape), tuple(patch), steps))


def _weight(patch: tuple[int, int, int], weighting: Weighting, device: torch.device) -> Tensor:
    from monai.data.utils import compute_importance_map

    weight: Tensor = compute_importance_map(patch, mode=weighting, sigma_scale=0.125, device=device, dtype=torch.float32)
    return weight


def _pad(image: Tensor, patch: tuple[int, int, int], value: float) -> tuple[Tensor, Box]:
    """The image with each axis at least as long as the patch, and the box of the image in it."""
    before, after = [], []
    for extent, size in zip(image.shape[1:], patch, strict=True):
        missing = max(size - extent, 0)
        before.append(missing // 2)
        after.append(missing - missing // 2)
    i, j, k = (slice(start, start + extent) for start, extent in zip(before, image.shape[1:], strict=True))
    if not any(after):
        return image, (i, j, k)
    widths = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return torch.nn.functional.pad(image, widths, value=value), (i, j, k)


def _seen(window: Box, occupied: Tensor | None, inner: Box) -> bool:
    if occupied is None:
        return True
    box = tuple(slice(max(view.start - image.start, 0), max(view.stop - image.start, 0)) for view, image in zip(window, inner, strict=True))
    return bool(occupied[box].any())
