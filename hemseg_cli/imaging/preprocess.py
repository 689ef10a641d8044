"""From a scan in HU to what a network eats, and from its answer back to the scan's own grid.

A checkpoint carries the settings.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import Reorientation, from_canonical, to_canonical
from hemseg_cli.imaging.resampling import resample, resampled_shape

Spacing = tuple[float | None, float | None, float | None]

_SAME_SPACING_MM = 1e-3  # MONAI's `Spacing` does not resample an axis that is this near, and the published setup is built on it


@dataclass(frozen=True)
class HuWindow:
    """One input channel: HU clipped to [low, high], minus `mean`, divided by `std`."""

    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def unit(cls, low: float, high: float) -> "HuWindow":
        """The window scaled to [-1, 1]."""
        return cls(low, high, (low + high) / 2, (high - low) / 2)


@dataclass(frozen=True)
class Preprocess:
    """`spacing_mm` along R, A, S; one channel per window.

    An axis keeps the scan's own spacing where its `spacing_mm` is None, or the two differ by 0.001
    mm at most or by less than the factor `keep_within`.
    """

    spacing_mm: Spacing = (None, None, None)
    windows: tuple[HuWindow, ...] = (HuWindow.unit(0.0, 80.0),)
    keep_within: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return {
            "spacing_mm": list(self.spacing_mm),
            "windows": [asdict(window) for window in self.windows],
            "keep_within": self.keep_within,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`; FileFormatError if the values are not of that form."""
        try:
            x, y, z = (None if step is None else float(step) for step in values["spacing_mm"])
            return cls(
                (x, y, z),
                tuple(
                    HuWindow(**{key: float(value) for key, value in window.items()})
                    for window in values["windows"]
                ),
                float(values.get("keep_within", 1.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"preprocessing settings not understood: {error}") from None

    def air(self) -> tuple[float, ...]:
        """What air becomes in each channel: the lowest value."""
        return tuple((window.low - window.mean) / window.std for window in self.windows)

    def grid_spacing_mm(self, own_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """The network's spacing for a scan whose own is `own_mm` (both along R, A, S)."""
        x, y, z = (
            own if wanted is None or self._is_near(own, wanted) else wanted
            for own, wanted in zip(own_mm, self.spacing_mm, strict=True)
        )
        return x, y, z

    def _is_near(self, own: float, wanted: float) -> bool:
        return (
            abs(own - wanted) <= _SAME_SPACING_MM
            or wanted / self.keep_within < own < wanted * self.keep_within
        )


@dataclass(frozen=True)
class NetworkGrid:
    """How a scan was brought to the network's grid; enough to go back."""

    source_shape: tuple[int, int, int]
    canonical_shape: tuple[int, int, int]
    canonical_spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    reorientation: Reorientation


def network_grid(volume: Volume, settings: Preprocess) -> tuple[Volume, NetworkGrid]:
    """The canonical view of a volume, and the grid on which the network sees it."""
    canonical, change = to_canonical(volume)
    spacing = spacing_mm(canonical.affine)
    x, y, z = settings.grid_spacing_mm(spacing)
    i, j, k = canonical.array.shape
    shape = resampled_shape((i, j, k), spacing, (x, y, z))
    si, sj, sk = volume.array.shape
    return canonical, NetworkGrid((si, sj, sk), (i, j, k), spacing, shape, (x, y, z), change)


def prepare_image(volume: Volume, settings: Preprocess) -> tuple[NDArray[np.float32], NetworkGrid]:
    """HU -> float32 [c, i, j, k] on the network's grid (linear interpolation)."""
    canonical, grid = network_grid(volume, settings)
    hu = resample(
        canonical.array, grid.canonical_spacing_mm, grid.spacing_mm, grid.shape, linear=True
    )
    return normalise(hu, settings), grid


def prepare_label(volume: Volume, settings: Preprocess) -> NDArray[np.uint8]:
    """A mask on the network's grid, uint8 [i, j, k] (nearest neighbour)."""
    canonical, grid = network_grid(volume, settings)
    mask = resample(
        canonical.array.astype(np.uint8),
        grid.canonical_spacing_mm,
        grid.spacing_mm,
        grid.shape,
        linear=False,
    )
    return np.ascontiguousarray(mask)


def normalise(hu: NDArray[Any], settings: Preprocess) -> NDArray[np.float32]:
    """HU [i, j, k] -> one channel per window, float32 [c, i, j, k], C-contiguous."""
    channels = np.empty((len(settings.windows), *hu.shape), dtype=np.float32)
    for channel, window in zip(channels, settings.windows, strict=True):
        np.clip(hu, window.low, window.high, out=channel, casting="unsafe")
        channel -= np.float32(window.mean)
        channel /= np.float32(window.std)
    return channels


def restore_probability(probability: NDArray[np.float32], grid: NetworkGrid) -> NDArray[np.float32]:
    """Probabilities [i, j, k] on the network's grid -> on the scan's own grid (linear interpolation)."""
    canonical = resample(
        probability, grid.spacing_mm, grid.canonical_spacing_mm, grid.canonical_shape, linear=True
    )
    return np.asarray(from_canonical(canonical, grid.reorientation), dtype=np.float32)
