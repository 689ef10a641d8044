"""Slices at uneven steps: the length that each stands for, and an even grid beside them.

A two-part protocol (5 mm at the base of the skull, 10 mm above) is an ordinary scan. A network
wants even steps; the mask belongs on the slices that were acquired, and each of its voxels stands
for as much of the head as its own slice does.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.resampling import resample_planes

Positions = NDArray[np.float64]


def slice_thickness_mm(positions_mm: Positions) -> Positions:
    """Return the length along the normal that each slice stands for, mm.

    Half the distance to each neighbour; the first and the last slice, with one neighbour alone,
    reach as far outwards as they do inwards. Even steps give the step everywhere. `positions_mm`
    [k], two or more: places along the normal, ascending.
    """
    steps = np.diff(positions_mm)
    before = np.concatenate([steps[:1], steps])
    after = np.concatenate([steps, steps[-1:]])
    return np.asarray((before + after) / 2)


def even_positions_mm(positions_mm: Positions, count: int) -> Positions:
    """Return `count` places at even steps from the first slice to the last, mm."""
    return np.linspace(positions_mm[0], positions_mm[-1], count)


def onto_even_slices(array: NDArray[Any], positions_mm: Positions, count: int) -> NDArray[Any]:
    """Interpolate an image [i, j, k] linearly onto `count` slices at even steps."""
    even = even_positions_mm(positions_mm, count)
    return resample_planes(array.transpose(2, 0, 1), positions_mm, even).transpose(1, 2, 0)


def onto_own_slices(values: NDArray[Any], positions_mm: Positions) -> NDArray[Any]:
    """Return a mask or a probability [i, j, even k] on the acquired slices, the nearest in mm.

    The inverse way of `onto_even_slices`: every acquired slice takes the values of the even slice
    next to it, the lower one where two are equally near.
    """
    even = even_positions_mm(positions_mm, values.shape[2])
    nearest = np.abs(positions_mm[:, None] - even[None, :]).argmin(axis=1)
    return np.asarray(values[:, :, nearest])


def mask_volume_ml(mask: NDArray[Any], pixel_area_mm2: float, positions_mm: Positions) -> float:
    """Return the volume of a mask [i, j, k] on its own slices, mL.

    Each slice's pixels times the length that it stands for (`slice_thickness_mm`).
    `pixel_area_mm2`: of one pixel within the slice.
    """
    pixels = np.count_nonzero(mask, axis=(0, 1))
    return float(pixels @ slice_thickness_mm(positions_mm)) * pixel_area_mm2 / 1000
