"""Changes of intensity and sharpness, in place on float32 [c, i, j, k].

All channels show one scan and change together.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from hemseg_cli.config.schema import AugmentConfig


def change_intensities(
    image: Tensor,
    settings: "AugmentConfig",
    random: np.random.Generator,
    *,
    hu_per_unit: Sequence[float],
) -> Tensor:
    """Lower the resolution, blur, change contrast, brightness and gamma, add noise.

    Each with its probability, in the order in which a scanner would. `hu_per_unit`: the HU that one
    unit of each normalised channel stands for.
    """
    hits = dict(
        zip(
            _NAMES,
            random.random(len(_NAMES)) < [getattr(settings, f"{name}_p") for name in _NAMES],
            strict=True,
        )
    )
    if hits["low_resolution"]:
        lower_resolution(image, random.uniform(*settings.low_resolution))
    if hits["blur"]:
        blur(image, random.uniform(*settings.blur_sigma))
    if hits["contrast"]:
        contrast(image, random.uniform(*settings.contrast))
    if hits["brightness"]:
        image += random.uniform(*settings.brightness)
    if hits["gamma"]:
        gamma(image, random.uniform(*settings.gamma))
    if hits["noise"]:
        std_hu = random.uniform(*settings.noise_hu)
        noise(image, std_hu, hu_per_unit, seed=int(random.integers(2**62)))
    return image


_NAMES = ("low_resolution", "blur", "contrast", "brightness", "gamma", "noise")


def contrast(image: Tensor, factor: float) -> None:
    """Differences from each channel's mean times `factor`, kept within the channel's range."""
    for channel in image:
        low, high = (float(value) for value in channel.aminmax())
        mean = float(channel.mean())
        channel.mul_(factor).add_(mean * (1 - factor)).clamp_(low, high)


def gamma(image: Tensor, exponent: float) -> None:
    """x^exponent over each channel's own range, which is kept."""
    for channel in image:
        low, high = (float(value) for value in channel.aminmax())
        if high > low:
            # exp and log are vectorised, and several times as fast as pow.
            channel.sub_(low).div_(high - low).log_().mul_(exponent).exp_().mul_(high - low).add_(
                low
            )


def noise(image: Tensor, std_hu: float, hu_per_unit: Sequence[float], *, seed: int) -> None:
    """Add Gaussian noise of a standard deviation in HU, independent in each voxel.

    All channels are windows of one scan, and get the same noise, in their own units.
    """
    field = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed))
    for channel, unit_hu in zip(image, hu_per_unit, strict=True):
        channel.add_(field, alpha=std_hu / unit_hu)


def blur(image: Tensor, sigma: float) -> None:
    """In-plane Gaussian blur, sigma in voxels, cut off at three sigma; the edge is repeated."""
    radius = max(1, int(np.ceil(3 * sigma)))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for channel in image:
        for axis in (0, 1):
            channel.copy_(_weighted(channel, axis, radius, weights))


def lower_resolution(image: Tensor, share: float) -> None:
    """Keep only this share of the pixels along i and j (the nearest), and interpolate the rest."""
    for channel in image:
        for axis in (0, 1):
            channel.copy_(_thinned(channel, axis, share))


def _weighted(channel: Tensor, axis: int, radius: int, weights: NDArray[np.float64]) -> Tensor:
    n = channel.shape[axis]
    padded = channel.index_select(axis, torch.arange(-radius, n + radius).clamp_(0, n - 1))
    result = torch.zeros_like(channel)
    for shift, weight in enumerate(weights):
        result.add_(padded.narrow(axis, shift, n), alpha=float(weight))
    return result


def _thinned(channel: Tensor, axis: int, share: float) -> Tensor:
    n = channel.shape[axis]
    kept = max(2, round(n * share))
    if n < 3 or kept >= n:
        return channel
    places = torch.linspace(0, n - 1, kept).round_().long()
    before = torch.searchsorted(places, torch.arange(n), right=True).sub_(1).clamp_(max=kept - 2)
    first, second = places[before], places[before + 1]
    weight = ((torch.arange(n) - first) / (second - first)).reshape(
        [-1 if other == axis else 1 for other in range(channel.ndim)]
    )
    return channel.index_select(axis, first).lerp_(channel.index_select(axis, second), weight)
