"""Prepare a scan for a network, and bring the network's output back to the scan's own grid.

Axes are made canonical (R, A, S), voxels resampled to the network's spacing, HU clipped and
normalised by one window a channel. The settings travel in the checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.imaging.geometry import Affine, spacing_mm
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import Reorientation, from_canonical, to_canonical
from hemseg_cli.imaging.resampling import (
    average_thin,
    majority_of_thin,
    resample,
    resampled_shape,
)

Spacing = tuple[float | None, float | None, float | None]
Alignment = Literal["first-voxel", "monai"]
ThinSlices = Literal["average", "sample"]

_SAME_SPACING_MM = 1e-3
"""MONAI's `Spacing` does not resample an axis that is this near, as the published setup has it."""

_SAME_CENTRE_VOXEL = 1e-6
_MOST_VOXELS = 2**29  # 2 GiB a channel in float32; 512 x 512 x 600 are 0.3 of it


@dataclass(frozen=True)
class HuWindow:
    """Define one input channel: HU clipped to [low, high], minus `mean`, divided by `std`."""

    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def unit(cls, low: float, high: float) -> "HuWindow":
        """Return the window that scales [low, high] to [-1, 1]."""
        return cls(low, high, (low + high) / 2, (high - low) / 2)


@dataclass(frozen=True)
class Preprocess:
    """Say how scans are prepared: `spacing_mm` along R, A, S; one channel per window.

    An axis keeps the scan's own spacing where its `spacing_mm` is None, or the two differ by 0.001
    mm at most or by less than the factor `keep_within`. `alignment`: whether the first voxels of
    both grids share their centre, or the new grid lies where MONAI's `Spacing` puts it.
    `thin_slices`: whether voxels much thinner than the network's are averaged, or a point among
    them is taken, as MONAI does.
    """

    spacing_mm: Spacing = (None, None, None)
    windows: tuple[HuWindow, ...] = (HuWindow.unit(0.0, 80.0),)
    keep_within: float = 1.0
    alignment: Alignment = "first-voxel"
    thin_slices: ThinSlices = "sample"

    @property
    def averages(self) -> bool:
        """Whether thin slices are averaged."""
        return self.thin_slices == "average"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint stores them."""
        return {
            "spacing_mm": list(self.spacing_mm),
            "windows": [asdict(window) for window in self.windows],
            "keep_within": self.keep_within,
            "alignment": self.alignment,
            "thin_slices": self.thin_slices,
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
                _alignment(values.get("alignment", "first-voxel")),
                "average" if values.get("thin_slices") == "average" else "sample",
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
    """Record how a scan was brought to the network's grid; enough to go back.

    `origin_mm`: centre of the network's voxel [0, 0, 0] from the canonical scan's, along its axes.
    """

    source_shape: tuple[int, int, int]
    canonical_shape: tuple[int, int, int]
    canonical_spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    reorientation: Reorientation
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def way_back_mm(self) -> tuple[float, float, float]:
        """The centre of the canonical scan's voxel [0, 0, 0] from the network's, along the axes."""
        x, y, z = (0.0 if step == 0 else -step for step in self.origin_mm)
        return x, y, z


def network_grid(volume: Volume, settings: Preprocess) -> tuple[Volume, NetworkGrid]:
    """Return the canonical view of a volume, and the grid on which the network sees it."""
    canonical, change = to_canonical(volume)
    si, sj, sk = volume.array.shape
    return canonical, grid_of(canonical, settings, change, (si, sj, sk))


def grid_of(
    canonical: Volume,
    settings: Preprocess,
    change: Reorientation,
    source_shape: tuple[int, int, int],
) -> NetworkGrid:
    """Return the grid on which the network sees a scan that is on canonical axes already.

    `change`: how the scan came from the axes of its file, `source_shape` its shape there. CaseError
    where the grid would have more voxels than any head CT: a scan of absurd extent, or settings of
    absurd spacing.
    """
    spacing = spacing_mm(canonical.affine)
    x, y, z = settings.grid_spacing_mm(spacing)
    i, j, k = canonical.array.shape

    wanted = resampled_shape((i, j, k), spacing, (x, y, z))
    if math.prod(wanted) > _MOST_VOXELS:
        shown = (" x ".join(f"{step:.4g}" for step in steps) for steps in ((x, y, z), spacing))
        raise CaseError(
            f"at {next(shown)} mm the network's grid would have {' x '.join(map(str, wanted))} "
            f"voxels, more than any head CT (the scan: {i} x {j} x {k} of {next(shown)} mm)",
            hint="check the scan's spacing, and the spacing that the model was trained with",
        )

    if settings.alignment == "monai":
        shape, origin_mm = monai_grid((i, j, k), canonical.affine, (x, y, z))
        return NetworkGrid(source_shape, (i, j, k), spacing, shape, (x, y, z), change, origin_mm)

    return NetworkGrid(source_shape, (i, j, k), spacing, wanted, (x, y, z), change)


def network_affine(canonical_affine: Affine, grid: NetworkGrid) -> Affine:
    """Return the affine of the network's grid, from index to RAS mm."""
    steps = canonical_affine[:3, :3] / np.asarray(grid.canonical_spacing_mm)

    affine = np.eye(4)
    affine[:3, :3] = steps * np.asarray(grid.spacing_mm)
    affine[:3, 3] = canonical_affine[:3, 3] + steps @ np.asarray(grid.origin_mm)
    return affine


def monai_grid(
    shape: tuple[int, int, int], affine: Affine, new_spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return shape and origin of the grid onto which MONAI's `Spacing` resamples a canonical scan.

    The origin is that of `NetworkGrid.origin_mm`. `Spacing` starts its grid at the scan's first
    voxel only where that corner is the lowest along every axis to 1e-8 of a voxel; in a header
    whose sform was rounded to float32 it often is not, and the grid is then laid around the scan's
    centre: up to 0.285 voxels along z in 54 of the 222 scans of HemSeg-200. So MONAI itself is
    asked.
    """
    from monai.data.utils import compute_shape_offset, zoom_affine  # slow to import

    target = zoom_affine(affine, new_spacing_mm, diagonal=False)
    new_shape, offset = compute_shape_offset(shape, affine, target)

    # From RAS millimetres to voxels of the scan, and to millimetres along its axes.
    first_voxel = np.linalg.solve(affine[:3, :3], offset - affine[:3, 3])
    x, y, z = (
        0.0 if abs(voxels) < _SAME_CENTRE_VOXEL else float(voxels * step)
        for voxels, step in zip(first_voxel, spacing_mm(affine), strict=True)
    )
    i, j, k = (int(n) for n in new_shape)
    return (i, j, k), (x, y, z)


def prepare_image(volume: Volume, settings: Preprocess) -> tuple[NDArray[np.float32], NetworkGrid]:
    """Resample and normalise a scan in HU: float32 [c, i, j, k] on the network's grid."""
    canonical, grid = network_grid(volume, settings)
    return prepare_part(canonical.array, grid, settings, grid.shape, grid.origin_mm), grid


def prepare_part(
    hu: NDArray[Any],
    grid: NetworkGrid,
    settings: Preprocess,
    shape: Sequence[int],
    origin_mm: Sequence[float],
) -> NDArray[np.float32]:
    """Resample and normalise a part of a scan in HU on canonical axes: float32 [c, *shape].

    `shape` and `origin_mm` are of the part of the network's grid, from the first voxel of `hu`.
    Thin slices are averaged where the settings say so, the other axes are interpolated linearly.
    """
    spacing: Sequence[float] = grid.canonical_spacing_mm
    if settings.averages:
        hu, (spacing, origin_mm) = average_thin(hu, spacing, grid.spacing_mm, shape, origin_mm)
    on_grid = resample(hu, spacing, grid.spacing_mm, shape, linear=True, origin_mm=origin_mm)
    return normalise(on_grid, settings)


def prepare_label(volume: Volume, settings: Preprocess) -> NDArray[np.uint8]:
    """Resample a mask onto the network's grid, uint8 [i, j, k].

    The nearest neighbour; the majority of thin slices where these are averaged.
    """
    canonical, grid = network_grid(volume, settings)
    mask = canonical.array.astype(np.uint8)
    spacing: Sequence[float] = grid.canonical_spacing_mm
    origin_mm: Sequence[float] = grid.origin_mm
    if settings.averages:
        mask, (spacing, origin_mm) = majority_of_thin(
            mask, spacing, grid.spacing_mm, grid.shape, origin_mm
        )
    return np.ascontiguousarray(
        resample(mask, spacing, grid.spacing_mm, grid.shape, linear=False, origin_mm=origin_mm)
    )


def normalise(hu: NDArray[Any], settings: Preprocess) -> NDArray[np.float32]:
    """Turn HU [i, j, k] into one channel per window, float32 [c, i, j, k], C-contiguous."""
    channels = np.empty((len(settings.windows), *hu.shape), dtype=np.float32)

    # In place, channel by channel: a scan of a gigabyte is not held twice.
    for channel, window in zip(channels, settings.windows, strict=True):
        np.clip(hu, window.low, window.high, out=channel, casting="unsafe")
        channel -= np.float32(window.mean)
        channel /= np.float32(window.std)
    return channels


def restore_probability(probability: NDArray[np.float32], grid: NetworkGrid) -> NDArray[np.float32]:
    """Resample probabilities [i, j, k] from the network's grid onto the scan's own (linear)."""
    canonical = resample(
        probability,
        grid.spacing_mm,
        grid.canonical_spacing_mm,
        grid.canonical_shape,
        linear=True,
        origin_mm=grid.way_back_mm,
    )
    return np.asarray(from_canonical(canonical, grid.reorientation), dtype=np.float32)


def _alignment(value: object) -> Alignment:
    if value == "first-voxel":
        return "first-voxel"
    if value == "monai":
        return "monai"
    raise ValueError(f"alignment {value!r}")
