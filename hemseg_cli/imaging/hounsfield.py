"""Hounsfield units: the value of padding, and whether a scan's numbers are HU at all.

Files of strangers hold stored values without their rescale intercept, most often 1024 or 1000 too
high: a threshold in HU then finds nothing, and the answer is a confident zero.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING_HU = -1000
"""Air: what stands for voxels outside the scan, in every place that has to fill some."""

_KNOWN_OFFSETS_HU = (0, 1024, 1000, -1024, -1000)
_BRAIN_HU = (15, 55)
_BRAIN_PEAK_HU = 34  # between white (25 to 32) and grey matter (35 to 42)
_ABOVE_BRAIN_HU = (100, 140)  # few voxels: above blood, below most bone
_AIR_HU = (-1100, -900)
_NO_TISSUE_BELOW_HU = -200
_LEAST_BRAIN_SHARE = 0.02
_LEAST_AIR_SHARE = 0.02
_MOST_BELOW_SHARE = 0.005
_LEAST_PEAK_RATIO = 3.0
_SMOOTH_HU = 9
_LOW_HU, _HIGH_HU = -4096, 8192

# Where the windows end in which pictures of brain are stored.
_CEILINGS_HU = (75, 400)
_GAP_HU = 30
_LEAST_PLATEAU = 5.0
_LEAST_PILED_UP = 20
_LEAST_TISSUE = 1000
_GREY_LEVELS = 255


def find_hu_offset(values: NDArray[Any]) -> int | None:
    """Return how much too high a head CT's numbers are, 0 where they are HU.

    `values`: the scan, or an even sample of it, any shape. An offset is recognised by the peaks of
    air and brain, which lie 1034 HU apart; None where no offset puts a brain where it belongs (not
    a head, not a CT, or an unknown scale). Voxels that are no number are left out.
    """
    histogram = _histogram(values)
    if histogram is None:
        return None

    fitting = [offset for offset in _KNOWN_OFFSETS_HU if _has_brain(histogram, offset)]
    with_air = [
        offset for offset in fitting if _share(histogram, _AIR_HU, offset) >= _LEAST_AIR_SHARE
    ]
    # Numbers that are HU as they stand are left alone, whatever else would fit: padding of -2000
    # looks like air, and air then like brain.
    if 0 in with_air:
        return 0

    # The air of a scan that is 1024 too high would pass as brain, so that air found elsewhere
    # decides; without any (a brain taken out of its skull) the numbers are HU if they can be.
    if not with_air and 0 in fitting:
        return 0
    candidates = with_air or [
        offset
        for offset in fitting
        if offset > 0
        and _share(histogram, (_LOW_HU, _NO_TISSUE_BELOW_HU), offset) <= _MOST_BELOW_SHARE
    ]
    if not candidates:
        return None

    # 1000 and 1024 both put the brain within its range: the place of its peak tells them apart.
    return min(candidates, key=lambda offset: abs(_brain_peak(histogram, offset) - _BRAIN_PEAK_HU))


def find_ceiling(values: NDArray[Any]) -> int | None:
    """Return the HU at which the numbers of a head CT were cut off, None where they were not.

    A scan has voxels of every value from tissue to bone, those that fill them in part. In one that
    was clipped to a window for brain all of them stand at the window's end, and none follows for
    the next 30 HU. Bone that was put back at a value of its own may stand beyond.
    """
    lowest, highest = _CEILINGS_HU
    flat = np.asarray(values).ravel()
    tissue = flat[(flat > _NO_TISSUE_BELOW_HU) & (flat < highest + _GAP_HU)]
    if tissue.size < _LEAST_TISSUE:
        return None

    whole = np.clip(np.rint(tissue), 0, None).astype(np.int64)
    counts = np.bincount(whole, minlength=highest + 2 * _GAP_HU)

    # Values behind which there is nothing: a brain without its skull thins out there, clipped
    # numbers pile up.
    there = lowest + np.flatnonzero(counts[lowest : highest + _GAP_HU])
    ends = there[np.diff(there, append=highest + 2 * _GAP_HU) > _GAP_HU]
    for end in ends[ends <= highest]:
        below = counts[end - 10 : end].mean()
        if counts[end] >= max(_LEAST_PLATEAU * below, _LEAST_PILED_UP):
            return int(end)
    return None


def are_grey_levels(values: NDArray[Any]) -> bool:
    """Tell whether the numbers are the 256 grey levels of a picture: whole, from 0, to 255."""
    flat = np.asarray(values).ravel()
    return bool(
        flat.size
        and flat.min() == 0
        and _GREY_LEVELS / 2 < flat.max() <= _GREY_LEVELS
        and (flat == np.rint(flat)).all()
    )


def _histogram(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return the share of voxels at each HU from `_LOW_HU` on; None where there are no numbers."""
    flat = np.asarray(values).ravel()
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return None

    whole = np.clip(np.rint(flat), _LOW_HU, _HIGH_HU).astype(np.int64) - _LOW_HU
    return np.bincount(whole, minlength=_HIGH_HU - _LOW_HU + 1) / flat.size


def _share(histogram: NDArray[np.float64], window_hu: tuple[int, int], offset: int) -> float:
    low, high = (min(max(end + offset, _LOW_HU), _HIGH_HU) - _LOW_HU for end in window_hu)
    return float(histogram[low : high + 1].sum())


def _has_brain(histogram: NDArray[np.float64], offset: int) -> bool:
    """Tell whether there is a peak of voxels where this offset expects the brain."""
    brain = _share(histogram, _BRAIN_HU, offset)
    above = _share(histogram, _ABOVE_BRAIN_HU, offset)
    return brain >= _LEAST_BRAIN_SHARE and brain >= _LEAST_PEAK_RATIO * above


def _brain_peak(histogram: NDArray[np.float64], offset: int) -> float:
    """Return where the histogram is highest around the brain, in HU by this offset."""
    low, high = -20, 100
    part = histogram[low + offset - _LOW_HU : high + offset - _LOW_HU]
    smooth = np.convolve(part, np.ones(_SMOOTH_HU), mode="same")
    return float(low + int(smooth.argmax()))
