"""Voxels, boxes and surfaces of a mask, found without a pass over the empty part of the scan.

A head CT has millions of voxels and a hemorrhage some thousands. A mask is therefore read once, eight voxels at a time, into the list of
its foreground voxels, and everything else works on that list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_WORD = 8


@dataclass(frozen=True)
class Foreground:
    """The foreground of a 3-D mask: `flat` are sorted indices [n] into the C-ordered array of `shape` (i, j, k)."""

    shape: tuple[int, int, int]
    flat: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of voxels."""
        return int(self.flat.size)

    @cached_property
    def index(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """i, j, k of each voxel, int64 [n] each."""
        i, j, k = np.unravel_index(self.flat, self.shape)
        return i, j, k

    def box(self) -> tuple[slice, slice, slice]:
        """The smallest box around the voxels; the mask must not be empty."""
        i, j, k = (slice(int(axis.min()), int(axis.max()) + 1) for axis in self.index)
        return i, j, k

    def crop(self) -> NDArray[np.bool_]:
        """The mask inside its box, bool."""
        box = self.box()
        cropped = np.zeros(tuple(side.stop - side.start for side in box), dtype=bool)
        cropped[tuple(axis - side.start for axis, side in zip(self.index, box, strict=True))] = True
        return cropped

    def contains(self, flat: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these flat indices are foreground, bool as `flat`."""
        if self.count == 0:
            return np.zeros(flat.shape, dtype=bool)
        place = np.searchsorted(self.flat, flat)
        place[place == self.count] = 0
        return np.asarray(self.flat[place] == flat)


def foreground(mask: NDArray[Any]) -> Foreground:
    """The foreground (non-zero voxels) of a 3-D mask of any number type and memory order."""
    i, j, k = mask.shape
    if mask.dtype.kind not in "biu":
        mask = mask != 0
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        # Found in memory order, then renumbered: a transposed copy of the whole scan would cost more than the search.
        z, y, x = np.unravel_index(_nonzero(mask.reshape(-1, order="F")), (k, j, i))
        return Foreground((i, j, k), np.sort((x * j + y) * k + z))
    return Foreground((i, j, k), _nonzero(np.ascontiguousarray(mask).reshape(-1)))


def _nonzero(line: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the non-zero elements of a contiguous 1-D array; a word of zeros is passed over at once."""
    per_word = _WORD // line.itemsize
    whole = line.size // per_word * per_word
    words = np.flatnonzero(line[:whole].view(np.uint64))
    near = (words[:, None] * per_word + np.arange(per_word)).reshape(-1)
    return np.concatenate([near[line[near] != 0], whole + np.flatnonzero(line[whole:])])


def surface(mask: Foreground) -> NDArray[np.int64]:
    """Flat indices of the surface voxels: foreground with a face on background or on the edge of the scan.

    That is the mask without its erosion by the 6-neighbour cross, as in MONAI's `get_mask_edges`.
    """
    inner = np.ones(mask.count, dtype=bool)
    step = (mask.shape[1] * mask.shape[2], mask.shape[2], 1)
    for axis, size, stride in zip(mask.index, mask.shape, step, strict=True):
        inner &= (axis > 0) & (axis < size - 1)
        inner &= mask.contains(mask.flat - stride) & mask.contains(mask.flat + stride)
    return mask.flat[~inner]


def points_mm(flat: NDArray[np.int64], shape: Sequence[int], spacing_mm: Sequence[float]) -> Points:
    """Voxel centres [n, 3] in mm from the centre of voxel (0, 0, 0)."""
    return np.stack([axis * float(step) for axis, step in zip(np.unravel_index(flat, tuple(shape)), spacing_mm, strict=True)], axis=1)


def surface_distances_mm(
    prediction: Foreground, truth: Foreground, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each surface voxel of one mask to the nearest one of the other, mm: prediction to truth, truth to prediction.

    Exact, by k-d trees between the surface voxels; neither mask may be empty.
    """
    a, b = surface(prediction), surface(truth)
    return _directed(a, b, prediction.shape, spacing_mm), _directed(b, a, prediction.shape, spacing_mm)


def _directed(
    source: NDArray[np.int64], target: NDArray[np.int64], shape: Sequence[int], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree  # slow to import

    distances = np.zeros(source.size)
    apart = ~np.isin(source, target, assume_unique=True)
    tree = cKDTree(points_mm(target, shape, spacing_mm), leafsize=32)
    distances[apart] = tree.query(points_mm(source[apart], shape, spacing_mm))[0]
    return distances
