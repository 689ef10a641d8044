"""Axes of an array: brought to canonical order and back, or onto those of another volume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.geometry import SAME_PLACE_MM, Affine, grid_distance_mm, spacing_mm
from hemseg_cli.imaging.nifti import Volume


@dataclass(frozen=True)
class Reorientation:
    """Record how an array was brought to other axes.

    `axes[n]` is the source axis that became axis n, `flipped[n]` whether it was reversed.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]


UNCHANGED = Reorientation((0, 1, 2), (False, False, False))
"""Of an array that is on canonical axes already."""


def to_canonical(volume: Volume) -> tuple[Volume, Reorientation]:
    """Return the volume with i, j, k nearest to R, A, S, and how to go back.

    The array is a view: nothing is resampled or copied.
    """
    import nibabel as nib

    directions = nib.io_orientation(volume.affine)
    axes = tuple(int(np.flatnonzero(directions[:, 0] == n)[0]) for n in range(3))
    flipped = tuple(bool(directions[axis, 1] < 0) for axis in axes)

    change = Reorientation((axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2]))
    return _reorient(volume, change), change


def from_canonical(array: NDArray[Any], change: Reorientation) -> NDArray[Any]:
    """Return an array on the canonical grid on the source's axes again (a view)."""
    return _flip(array, change.flipped).transpose(np.argsort(change.axes))


def match_axes(
    mask: Volume,
    shape: Sequence[int],
    affine: Affine,
    *,
    what: str = "label",
    tolerance_mm: float = SAME_PLACE_MM,
) -> Volume:
    """Return a mask on the axes of its image, where both lie in one place (a view).

    `shape` and `affine` (to RAS mm) are the image's.

    Tools store the same voxels in another order (R-A-S for L-P-S, slices first): the order is
    taken from the affines, never guessed from the shapes. CaseError, naming `what`, where the
    corners of the two then lie more than `tolerance_mm` apart.
    """
    # The image's axis n is that axis of the mask which points the same way, or the opposite one.
    along = _directions(mask.affine).T @ _directions(affine)
    order = [int(axis) for axis in np.abs(along).argmax(axis=0)]

    matched = mask
    if sorted(order) == [0, 1, 2]:
        backwards = [bool(along[axis, n] < 0) for n, axis in enumerate(order)]
        change = Reorientation(
            (order[0], order[1], order[2]), (backwards[0], backwards[1], backwards[2])
        )
        matched = _reorient(mask, change)

    apart = grid_distance_mm(matched.array.shape, matched.affine, shape, affine)
    if apart <= tolerance_mm:
        return matched

    if math.isinf(apart):
        raise CaseError(
            f"the {what} is {describe_grid(mask.array.shape, mask.affine)}, "
            f"the image {describe_grid(shape, affine)}",
            hint="a mask has to lie on the voxels of its image: resample it onto them",
        )
    raise CaseError(
        f"the {what} lies up to {apart:.3g} mm off the image",
        hint="a mask has to lie on the voxels of its image: resample it onto them",
    )


def describe_grid(shape: Sequence[int], affine: Affine) -> str:
    """Say size, spacing and origin of a grid in words."""
    size = " x ".join(map(str, shape))
    spacing = " x ".join(f"{step:.4g}" for step in spacing_mm(affine))
    origin = ", ".join(f"{x:.1f}" for x in affine[:3, 3])
    return f"{size} voxels of {spacing} mm from ({origin})"


def _directions(affine: Affine) -> NDArray[np.float64]:
    steps = affine[:3, :3]
    return np.asarray(steps / np.linalg.norm(steps, axis=0), dtype=np.float64)


def _reorient(volume: Volume, change: Reorientation) -> Volume:
    array = _flip(volume.array.transpose(change.axes), change.flipped)
    affine = np.array(volume.affine, dtype=np.float64)
    affine[:3, :3] = affine[:3, list(change.axes)]

    # A reversed axis begins at what was its last voxel and steps the other way.
    for axis, flip in enumerate(change.flipped):
        if flip:
            affine[:3, 3] += (array.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] = -affine[:3, axis]

    return Volume(array, affine)


def _flip(array: NDArray[Any], flipped: tuple[bool, bool, bool]) -> NDArray[Any]:
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]
