"""Slices at uneven steps: the length that each stands for, and an even grid beside them.

A two-part protocol (5 mm at the base of the skull, 10 mm above) is an ordinary scan. A network
wants even steps; the mask belongs on the slices that were acquired, and each of its voxels stands
for as much of the head as its own slice does.
"""

from collections import Counter
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.resampling import resample_planes

Positions = NDArray[np.float64]

FEWEST_STEPS_OF_A_PART = 3
"""A part of a protocol has as many steps of one length; fewer are a seam between two parts."""

STEP_TOLERANCE_MM = 0.05
"""Steps that differ by less are one: the least that is allowed (see `step_tolerance_mm`)."""

_STEP_TOLERANCE = 0.02


@dataclass(frozen=True)
class UnevenSlices:
    """Slices at uneven steps along one axis of an array [i, j, k].

    `axis`: along which the slices are stacked; `positions_mm`: their places along the normal,
    ascending with the index; `even_count`: how many slices the even grid beside them has.
    """

    axis: int
    positions_mm: Positions
    even_count: int

    def even(self, array: NDArray[Any]) -> NDArray[Any]:
        """Interpolate an image [i, j, k] linearly onto the even grid."""
        stacked = np.moveaxis(array, self.axis, 2)
        return np.moveaxis(
            onto_even_slices(stacked, self.positions_mm, self.even_count), 2, self.axis
        )

    def even_affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the even grid's affine from that of the slices, whose step is the mean.

        The first and the last slice stay where they are.
        """
        even = affine.copy()
        even[:3, self.axis] *= (len(self.positions_mm) - 1) / (self.even_count - 1)
        return even

    def nearest_even(self) -> NDArray[np.int64]:
        """Return for each slice the even one next to it in mm, ascending."""
        return _nearest(self.positions_mm, self.even_count)

    def voxel_volumes_mm3(self, pixel_area_mm2: float) -> NDArray[np.float64]:
        """Return the volume of each slice's voxels, mm3: 3 axes that broadcast to [i, j, k]."""
        shape = [1, 1, 1]
        shape[self.axis] = len(self.positions_mm)
        return (slice_thickness_mm(self.positions_mm) * pixel_area_mm2).reshape(shape)


def usual_step_mm(steps: Positions) -> float:
    """Return the step that most slices have (to 0.1 mm), the median of those that round to it."""
    rounded = np.round(steps, 1)
    most = Counter(rounded.tolist()).most_common(1)[0][0]
    return float(median_low(steps[rounded == most].tolist()))


def step_tolerance_mm(usual_mm: float) -> float:
    """Return by how much a step may differ from the usual one and still be even, mm.

    Positions are decimal strings, which some scanners round to 0.01 mm.
    """
    return max(_STEP_TOLERANCE * usual_mm, STEP_TOLERANCE_MM)


def are_even(positions_mm: Positions) -> bool:
    """Tell whether all steps between slices are the same but for rounding."""
    steps = np.diff(positions_mm)
    usual = usual_step_mm(steps)
    return bool((np.abs(steps - usual) <= step_tolerance_mm(usual)).all())


def network_slices(positions_mm: Positions) -> int:
    """Return how many even slices show a network all that uneven ones hold.

    At the step of the finest part of the protocol, so that no acquired slice is passed over; a
    step that is rarer is the seam between two parts.
    """
    steps = np.diff(positions_mm)
    counts = Counter(np.round(steps, 1).tolist())
    parts = [step for step, count in counts.items() if count >= FEWEST_STEPS_OF_A_PART]
    finest = min(parts, default=usual_step_mm(steps))
    return max(2, round(float(positions_mm[-1] - positions_mm[0]) / finest) + 1)


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
    return np.asarray(values[:, :, _nearest(positions_mm, values.shape[2])])


def _nearest(positions_mm: Positions, count: int) -> NDArray[np.int64]:
    """The index of the even slice nearest to each acquired one."""
    even = even_positions_mm(positions_mm, count)
    return np.asarray(np.abs(positions_mm[:, None] - even[None, :]).argmin(axis=1))


def mask_volume_ml(mask: NDArray[Any], pixel_area_mm2: float, positions_mm: Positions) -> float:
    """Return the volume of a mask [i, j, k] on its own slices, mL.

    Each slice's pixels times the length that it stands for (`slice_thickness_mm`).
    `pixel_area_mm2`: of one pixel within the slice.
    """
    pixels = np.count_nonzero(mask, axis=(0, 1))
    return float(pixels @ slice_thickness_mm(positions_mm)) * pixel_area_mm2 / 1000
