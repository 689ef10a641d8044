"""Prepare a scan on a part of the network's grid alone, and bring probabilities back from there.

Equal to `imaging.preprocess.prepare_image` and `restore_probability` on the part, without
resampling the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import NetworkGrid, Preprocess, prepare_part
from hemseg_cli.imaging.resampling import needed_voxels, resample
from hemseg_cli.imaging.uneven import UnevenSlices

Range = tuple[int, int]
Subgrid = tuple[Range, Range, Range]


@dataclass(frozen=True)
class Probability:
    """Probabilities on a part of a scan's canonical grid of `shape`; outside of it they are 0.

    `values`: float32 [i, j, k], or [classes, i, j, k] where there are several.
    """

    values: NDArray[np.float32]
    part: Subgrid
    shape: tuple[int, int, int]

    def full(self) -> NDArray[np.float32]:
        """Return the values on the whole canonical grid."""
        return self.embed(self.values)

    def embed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values on the part, in zeros on the whole canonical grid."""
        if values.ndim == 4:
            return np.stack([self.embed(channel) for channel in values])
        whole = np.zeros(self.shape, dtype=values.dtype, order="F")
        whole[box_of(self.part)] = values
        return whole

    def within(self, mask: NDArray[np.bool_]) -> "Probability":
        """Return the values where a mask on the canonical grid, [i, j, k], is set, and 0 elsewhere.

        The array of this object is used again.
        """
        self.values[..., ~mask[box_of(self.part)]] = 0
        return self

    def union(self) -> "Probability":
        """Return the highest probability of any class, [i, j, k]."""
        return replace(self, values=self.values.max(axis=0)) if self.values.ndim == 4 else self

    def channel(self, number: int) -> "Probability":
        """Return one class's probability, [i, j, k]."""
        return replace(self, values=self.values[number]) if self.values.ndim == 4 else self

    def on_own_slices(self, uneven: UnevenSlices) -> "Probability":
        """Return what was found at even steps on the acquired slices, the nearest in mm."""
        axis, nearest = uneven.axis, uneven.nearest_even()
        start, stop = self.part[axis]

        # The nearest even slice ascends: those of the part are the nearest of neighbouring slices.
        inside = np.flatnonzero((nearest >= start) & (nearest < stop))
        first = int(inside[0]) if inside.size else 0
        part, shape = list(self.part), list(self.shape)
        part[axis], shape[axis] = (first, first + inside.size), len(nearest)

        values = self.values.take(nearest[inside] - start, axis=self.values.ndim - 3 + axis)
        return Probability(values, (part[0], part[1], part[2]), (shape[0], shape[1], shape[2]))


def box_of(part: Subgrid) -> tuple[slice, slice, slice]:
    """Return the slices that index a part."""
    i, j, k = part
    return slice(*i), slice(*j), slice(*k)


def prepare_subgrid(
    canonical: Volume, grid: NetworkGrid, settings: Preprocess, part: Subgrid
) -> NDArray[np.float32]:
    """Return HU as float32 [c, i, j, k] on the part of the network's grid."""
    origin, needed = [], []
    for (start, stop), old, new, extent, shift in zip(
        part,
        grid.canonical_spacing_mm,
        grid.spacing_mm,
        canonical.array.shape,
        grid.origin_mm,
        strict=True,
    ):
        # The scan's voxels that the part is made from.
        low, high = needed_voxels(
            (start, stop), old, new, extent, origin_mm=shift, average=settings.averages
        )
        needed.append((low, high))
        origin.append(_near_zero(start * new + shift - low * old))
    i, j, k = needed
    shape = [stop - start for start, stop in part]
    return prepare_part(canonical.array[box_of((i, j, k))], grid, settings, shape, origin)


def restore_subgrid(values: NDArray[np.float32], grid: NetworkGrid, part: Subgrid) -> Probability:
    """Bring probabilities from a part of the network's grid to the scan's canonical grid.

    [i, j, k], or [classes, i, j, k]. They are given on the scan's voxels whose centres lie in the
    part.
    """
    origin, inside = [], []
    for (start, stop), old, new, extent, whole, shift in zip(
        part,
        grid.canonical_spacing_mm,
        grid.spacing_mm,
        grid.canonical_shape,
        grid.shape,
        grid.origin_mm,
        strict=True,
    ):
        # A part that ends with the grid answers for the scan's voxels beyond it too.
        first, last = start * new + shift, (stop - 1) * new + shift
        low = 0 if start == 0 else min(math.ceil(first / old - 1e-6), extent - 1)
        high = extent if stop == whole else min(math.floor(last / old + 1e-6) + 1, extent)
        inside.append((low, max(high, low + 1)))
        origin.append(_near_zero(low * old - first))
    i, j, k = inside
    shape = [high - low for low, high in inside]
    steps = grid.spacing_mm, grid.canonical_spacing_mm
    channels = [
        resample(one, *steps, shape, linear=True, origin_mm=origin)
        for one in (values if values.ndim == 4 else values[None])
    ]
    own = channels[0] if values.ndim == 3 else np.stack(channels)
    return Probability(own, (i, j, k), grid.canonical_shape)


def mean_and_deviation(
    outputs: Sequence[Probability],
) -> tuple[Probability, Probability | None]:
    """Return mean and standard deviation of several networks' probabilities for one scan.

    On the smallest part that holds all of theirs; no deviation for one network.
    """
    if len(outputs) == 1:
        return outputs[0], None

    i, j, k = (
        (min(one.part[axis][0] for one in outputs), max(one.part[axis][1] for one in outputs))
        for axis in range(3)
    )
    extent = [stop - start for start, stop in (i, j, k)]
    mean = np.zeros((*outputs[0].values.shape[:-3], *extent), dtype=np.float32)
    squares = np.zeros_like(mean)

    # Where a network has no window, its probability is 0 and counts as such.
    for one in outputs:
        a, b, c = (
            (low - corner[0], high - corner[0])
            for (low, high), corner in zip(one.part, (i, j, k), strict=True)
        )
        mean[(..., *box_of((a, b, c)))] += one.values
        squares[(..., *box_of((a, b, c)))] += one.values**2

    mean /= np.float32(len(outputs))
    variance = np.maximum(squares / np.float32(len(outputs)) - mean**2, 0)

    first = outputs[0]
    return (
        replace(first, values=mean, part=(i, j, k)),
        replace(first, values=np.sqrt(variance), part=(i, j, k)),
    )


def _near_zero(offset: float) -> float:
    return 0.0 if abs(offset) < 1e-6 else offset
