"""Canonical orientation and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.nifti import Volume


@dataclass(frozen=True)
class Reorientation:
    """How an array was brought to canonical axes.

    `axes[n]` is the source axis that became axis n, `flipped[n]` whether it was reversed.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]


def to_canonical(volume: Volume) -> tuple[Volume, Reorientation]:
    """The volume with i, j, k nearest to R, A, S (a view, nothing is resampled), and how to go back."""
    import nibabel as nib

    directions = nib.io_orientation(volume.affine)
    axes = tuple(int(np.flatnonzero(directions[:, 0] == n)[0]) for n in range(3))
    flipped = tuple(bool(directions[axis, 1] < 0) for axis in axes)
    change = Reorientation((axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2]))
    array = _flip(volume.array.transpose(axes), change.flipped)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(directions, volume.array.shape)
    return Volume(array, np.asarray(affine, dtype=np.float64)), change


def from_canonical(array: NDArray[Any], change: Reorientation) -> NDArray[Any]:
    """An array on the canonical grid back on the source's axes (a view)."""
    return _flip(array, change.flipped).transpose(np.argsort(change.axes))


def _flip(array: NDArray[Any], flipped: tuple[bool, bool, bool]) -> NDArray[Any]:
    return array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]
