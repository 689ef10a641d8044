"""Resample between grids that share their axes: spacing, shape and origin may differ.

Linear interpolation onto thicker slices takes a point between two thin ones and throws the others
away: the noise of one thin slice, and whatever stood in the others is lost. `average_thin` gives
what a scanner gives that makes thick slices: the mean over the thickness.
"""

import math
from collections.abc import Iterator, Sequence
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


_THIN = 1.5
"""From so many times its own spacing on an axis is averaged: below, interpolation loses nothing."""

Grid = tuple[tuple[float, ...], tuple[float, ...]]


def is_thin(spacing: float, new_spacing: float) -> bool:
    """Tell whether voxels of this spacing are thin beside those of the new one."""
    return new_spacing >= _THIN * spacing


def average_thin(
    array: NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    new_shape: Sequence[int],
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> tuple[NDArray[np.float32], Grid]:
    """Average `array` [i, j, k] along the axes on which its voxels are thin (`is_thin`).

    Returns float32 whose thin axes are those of the new grid, with spacing and origin_mm as
    `resample` takes them for what is left to do. A new voxel is the mean over its own extent;
    beyond the ends of the scan there is nothing, and it is the mean over what there is.
    """
    values = array.astype(np.float32, copy=False)
    steps, starts = list(spacing), list(origin_mm)
    for axis, (old, new, count) in enumerate(zip(spacing, new_spacing, new_shape, strict=True)):
        if is_thin(old, new):
            values = _averaged(values, axis, old, new, count, origin_mm[axis])
            steps[axis], starts[axis] = new, 0.0
    return values, (tuple(steps), tuple(starts))


def majority_of_thin(
    mask: NDArray[np.uint8],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    new_shape: Sequence[int],
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> tuple[NDArray[np.uint8], Grid]:
    """Bring a label to the thin axes of the new grid, as `average_thin` does an image.

    A new voxel is labelled where labels fill half of it, with the value that fills most.
    """
    total = best = None
    chosen: NDArray[np.uint8] | None = None
    grid: Grid = (tuple(spacing), tuple(origin_mm))
    for value in np.unique(mask):
        if value == 0:
            continue
        share, grid = average_thin(mask == value, spacing, new_spacing, new_shape, origin_mm)

        # The first value stands until another one fills more.
        if total is None or best is None or chosen is None:
            total, best = share.copy(), share
            chosen = np.full(share.shape, value, dtype=np.uint8)
            continue
        total += share
        chosen[share > best] = value
        best = np.maximum(best, share)

    if total is None or chosen is None:
        empty, grid = average_thin(mask, spacing, new_spacing, new_shape, origin_mm)
        return empty.astype(np.uint8), grid
    chosen[total < 0.5 - _SHARE_ROUNDING] = 0
    return chosen, grid


_SHARE_ROUNDING = 1e-5  # of shares that are sums of float32


def needed_voxels(
    voxels: tuple[int, int],
    spacing: float,
    new_spacing: float,
    extent: int,
    *,
    origin_mm: float = 0.0,
    average: bool,
) -> tuple[int, int]:
    """Return the first voxel along an axis that new voxels first..stop are made from, and the stop.

    `extent`: how many there are; `average`: whether thin ones are averaged, else interpolated.
    """
    first_mm = voxels[0] * new_spacing + origin_mm
    last_mm = (voxels[1] - 1) * new_spacing + origin_mm
    if average and is_thin(spacing, new_spacing):
        # All that the outer new voxels cover, measured from the edge of voxel 0.
        first = (first_mm - new_spacing / 2) / spacing + 0.5
        stop = (last_mm + new_spacing / 2) / spacing + 0.5
    else:
        # The voxels around both places.
        first, stop = first_mm / spacing, last_mm / spacing + 1
    low = min(max(math.floor(first + _SAME_PLACE), 0), extent - 1)
    high = min(math.ceil(stop - _SAME_PLACE), extent)
    return low, max(high, low + 1)


_SAME_PLACE = 1e-6  # voxels


def _averaged(
    values: NDArray[np.float32], axis: int, old: float, new: float, count: int, start_mm: float
) -> NDArray[np.float32]:
    """The means along one axis over `count` new voxels, the first one's centre at `start_mm`."""
    along = np.moveaxis(values, axis, -1)
    result = np.empty((*along.shape[:-1], count), dtype=np.float32)
    for number, (first, weights) in enumerate(_weights(along.shape[-1], old, new, count, start_mm)):
        result[..., number] = along[..., first : first + len(weights)] @ weights
    return np.moveaxis(result, -1, axis)


def _weights(
    extent: int, old: float, new: float, count: int, start_mm: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """For each new voxel the first old one that it overlaps, and the shares of it and the next."""
    for number in range(count):
        centre = start_mm + number * new
        first, stop = needed_voxels((0, 1), old, new, extent, origin_mm=centre, average=True)

        # The overlap of both extents in mm; a voxel wholly beyond the end takes the nearest one.
        places = np.arange(first, stop) * old
        low = np.maximum(places - old / 2, centre - new / 2)
        high = np.minimum(places + old / 2, centre + new / 2)
        overlap = np.maximum(high - low, 0.0)
        if not overlap.any():
            overlap = np.ones(len(places))
        yield first, (overlap / overlap.sum()).astype(np.float32)


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
