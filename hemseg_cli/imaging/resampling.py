"""Resample between grids that share their axes: spacing, shape and origin may differ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, int, int]:
    """Return how many voxels of the new spacing reach from the first to the last voxel centre.

    Rounded as MONAI's `Spacing` rounds.
    """
    i, j, k = (
        round((n - 1) * old / new) + 1
        for n, old, new in zip(shape, spacing, new_spacing, strict=True)
    )
    return i, j, k


def resample(
    array: NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    new_shape: Sequence[int],
    *,
    linear: bool,
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> NDArray[Any]:
    """Resample `array` [i, j, k] of `spacing` (mm) onto a grid of `new_spacing` and `new_shape`.

    Linear gives float32, nearest keeps the type. Beyond the last voxel centre the edge is repeated.
    `origin_mm`: where the new grid's first voxel centre lies, from the old one's.
    """
    import SimpleITK as sitk  # slow to import

    if (
        tuple(array.shape) == tuple(new_shape)
        and np.allclose(spacing, new_spacing, rtol=1e-6)
        and not any(origin_mm)
    ):
        return array.astype(np.float32) if linear else array

    # ITK's arrays are [k, j, i].
    source = sitk.GetImageFromArray(
        np.ascontiguousarray((array.astype(np.float32) if linear else array).transpose(2, 1, 0))
    )
    source.SetSpacing([float(step) for step in spacing])
    target = sitk.Resample(
        source,
        [int(n) for n in new_shape],
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkLinear if linear else sitk.sitkNearestNeighbor,
        [float(start) for start in origin_mm],
        [float(step) for step in new_spacing],
        list(np.eye(3).ravel()),
        0.0,
        source.GetPixelID(),
        True,
    )
    return np.asarray(sitk.GetArrayFromImage(target).transpose(2, 1, 0))


def resample_planes(
    array: NDArray[Any], positions: NDArray[np.float64], new_positions: NDArray[np.float64]
) -> NDArray[Any]:
    """Interpolate planes `array` [k, ...] at ascending `positions` (mm) linearly.

    At `new_positions`; beyond the ends the last plane is repeated. Integer types are rounded.
    """
    # Each new plane lies between the one at `after - 1` and the one at `after`.
    after = np.clip(np.searchsorted(positions, new_positions, side="right"), 1, len(positions) - 1)
    shares = (new_positions - positions[after - 1]) / (positions[after] - positions[after - 1])

    planes = np.empty((len(new_positions), *array.shape[1:]), dtype=array.dtype)
    for plane, index, share in zip(
        planes, after.tolist(), np.clip(shares, 0.0, 1.0).tolist(), strict=True
    ):
        mixed = array[index - 1] * np.float32(1 - share) + array[index] * np.float32(share)
        plane[...] = np.rint(mixed) if array.dtype.kind in "iu" else mixed
    return planes
