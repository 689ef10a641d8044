"""Foreground, surface and surface distances of masks, from the list of foreground voxels.

A head CT has millions of voxels and a hemorrhage some thousands. A mask is therefore read once,
eight voxels at a time, into the list of its foreground voxels, and everything else works on that
list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
_WORD = 8
_LEAF = 48  # points per leaf of the k-d trees; 32 to 64 were measured equal
# Edges of the cells that bound distances, coarse first; they pay where distances are longer.
_CELLS_MM = (8.0, 2.0)
_SAMPLES = 100  # points that tell how long distances are


@dataclass(frozen=True)
class Foreground:
    """The foreground of a 3-D mask.

    `line`: the whole mask as a contiguous C-ordered line; `flat`: sorted indices [n] of its
    non-zeros.
    """

    shape: tuple[int, int, int]
    line: NDArray[Any]
    flat: Indices

    @property
    def count(self) -> int:
        """Number of voxels."""
        return int(self.flat.size)

    def surface(self) -> Indices:
        """Flat indices of the surface voxels.

        Foreground with a face on background or on the edge of the scan.

        That is the mask without its erosion by the 6-neighbour cross, as in MONAI's
        `get_mask_edges`.
        """
        inner = np.ones(self.count, dtype=bool)

        # A neighbour along an axis lies one stride further on the line.
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        for axis, size, stride in zip(
            np.unravel_index(self.flat, self.shape), self.shape, strides, strict=True
        ):
            inner &= (axis > 0) & (axis < size - 1)
            # Beyond the edge of the scan any voxel may be looked at: the line above has said no
            # already.
            inner &= self.line.take(self.flat - stride, mode="clip") != 0
            inner &= self.line.take(self.flat + stride, mode="clip") != 0
        return self.flat[~inner]


@dataclass(frozen=True)
class MaskPair:
    """Prediction and truth on one grid, axes in memory order.

    `steps_mm` [3, 3]: its rows are the steps of one voxel along those axes, mm.
    """

    prediction: Foreground
    truth: Foreground
    steps_mm: Floats

    @property
    def overlap(self) -> int:
        """Voxels in both."""
        # Only the smaller mask's voxels have to be looked up in the other.
        small, large = sorted((self.prediction, self.truth), key=lambda mask: mask.count)
        return int(np.count_nonzero(large.line[small.flat]))


def mask_pair(
    prediction: NDArray[Any], truth: NDArray[Any], geometry_mm: Sequence[float] | Floats
) -> MaskPair:
    """Pair two masks [i, j, k] of any number type and memory order, non-zero = foreground.

    `geometry_mm`: the spacing (i, j, k), or the step vectors as the columns of a [3, 3] matrix
    (a tilted scan is sheared). ValueError if the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")

    given = np.asarray(geometry_mm, dtype=np.float64)
    steps = np.diag(given) if given.ndim == 1 else given.T

    # NIfTI readers give arrays whose first axis is the fastest: those are read the other way round.
    if truth.flags.f_contiguous and not truth.flags.c_contiguous:
        return MaskPair(foreground(prediction.T), foreground(truth.T), steps[::-1])

    return MaskPair(foreground(prediction), foreground(truth), steps)


def foreground(mask: NDArray[Any]) -> Foreground:
    """The foreground (non-zero voxels) of a 3-D mask."""
    i, j, k = mask.shape
    line = np.ascontiguousarray(mask).reshape(-1)
    per_word = max(1, _WORD // line.itemsize)
    whole = line.size // per_word * per_word
    # A word of zeros is eight bytes of background, passed over at once; the others are looked at
    # voxel by voxel.
    words = (
        np.flatnonzero(line[:whole].view(np.uint64))
        if per_word * line.itemsize == _WORD
        else np.arange(whole)
    )
    within = np.flatnonzero(line[:whole].reshape(-1, per_word)[words])
    near = words[within // per_word] * per_word + within % per_word
    flat = np.concatenate([near, whole + np.flatnonzero(line[whole:])])
    return Foreground((i, j, k), line, flat)


@dataclass(frozen=True)
class Surfaces:
    """The surface voxel centres [n, 3] of both masks in mm.

    `in_both`: which of them stand in both surfaces, at distance 0.
    """

    prediction: Floats
    truth: Floats
    prediction_in_both: NDArray[np.bool_]
    truth_in_both: NDArray[np.bool_]


def surfaces(pair: MaskPair) -> Surfaces:
    """The surfaces of two masks, neither of them empty."""
    p, t = pair.prediction.surface(), pair.truth.surface()

    # Both lists are sorted, so that one search finds what stands in both surfaces.
    place = np.minimum(np.searchsorted(t, p), t.size - 1)
    p_in_both = t[place] == p
    t_in_both = np.zeros(t.size, dtype=bool)
    t_in_both[place[p_in_both]] = True
    return Surfaces(_points_mm(p, pair), _points_mm(t, pair), p_in_both, t_in_both)


def surface_distances_mm(
    found: Surfaces, *, percentile: float, tolerance_mm: float | None = None
) -> tuple[Floats, Floats]:
    """From each surface voxel of one mask to the nearest of the other, mm.

    Prediction to truth, truth to prediction.

    By k-d trees between the surface voxels. Exact wherever it matters for the `percentile` (0..100,
    interpolated linearly) of either array and for the number of distances within `tolerance_mm`;
    any other element is bounded so that it changes neither.
    """
    return (
        _directed(
            found.prediction, found.prediction_in_both, found.truth, percentile, tolerance_mm
        ),
        _directed(found.truth, found.truth_in_both, found.prediction, percentile, tolerance_mm),
    )


def _directed(
    source: Floats,
    in_both: NDArray[np.bool_],
    target: Floats,
    percentile: float,
    tolerance_mm: float | None,
) -> Floats:
    """Measure from each source point to the nearest target, exactly where it decides a result.

    The distance changes by no more than one moves: what is known at a cell's centre bounds it for
    every point of the cell.
    """
    from scipy.spatial import cKDTree  # slow to import

    # Every distance begins between 0 and infinity; what stands in both surfaces is at 0 already.
    tree = cKDTree(target, leafsize=_LEAF, balanced_tree=False)
    lower, upper = np.zeros(len(source)), np.where(in_both, 0.0, np.inf)

    # Cells narrow the bounds, the coarse ones first, where distances are longer than a cell.
    typical_mm = np.median(tree.query(source[:: len(source) // _SAMPLES + 1])[0])
    for edge_mm in _CELLS_MM:
        if edge_mm < typical_mm:
            _bound(
                tree,
                source,
                _undecided(lower, upper, percentile, tolerance_mm),
                edge_mm,
                lower,
                upper,
            )

    # What the bounds do not decide is measured.
    rest = _undecided(lower, upper, percentile, tolerance_mm)
    lower[rest] = upper[rest] = tree.query(source[rest])[0]
    return upper


def _bound(
    tree: Any, source: Floats, points: Indices, edge_mm: float, lower: Floats, upper: Floats
) -> None:
    """Narrow the bounds of `points` by one query per cell of a cubic grid."""
    if not points.size:
        return

    # Number the cells that hold points, and take the first point of each as its centre.
    cells = np.floor(source[points] / edge_mm).astype(np.int64)
    cells -= cells.min(axis=0)
    number = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
    _, first, cell = np.unique(number, return_index=True, return_inverse=True)
    centres = source[points[first]]

    # A point is no further from its centre's distance than it is from the centre.
    known = tree.query(centres)[0][cell]
    away = np.linalg.norm(source[points] - centres[cell], axis=1)
    lower[points] = np.maximum(lower[points], known - away)
    upper[points] = np.minimum(upper[points], known + away)


def _undecided(
    lower: Floats, upper: Floats, percentile: float, tolerance_mm: float | None
) -> Indices:
    """Find the points whose bounds reach into the percentile's range or across the tolerance."""
    # The percentile lies between two ranks; any point whose bounds reach their range may decide.
    place = (len(lower) - 1) * percentile / 100
    rank = int(np.floor(place)), int(np.ceil(place))
    least, most = np.partition(lower, rank[0])[rank[0]], np.partition(upper, rank[1])[rank[1]]
    decides = (upper >= least) & (lower <= most)
    if tolerance_mm is not None:
        decides |= (lower <= tolerance_mm) & (upper > tolerance_mm)
    return np.flatnonzero(decides & (lower < upper))


def _points_mm(flat: Indices, pair: MaskPair) -> Floats:
    index = np.column_stack(np.unravel_index(flat, pair.truth.shape))
    return np.asarray(index @ pair.steps_mm, dtype=np.float64)
