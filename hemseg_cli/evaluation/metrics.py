"""Voxel and surface metrics of one pair of masks.

Functions on 3-D masks [i, j, k], non-zero = hemorrhage. What they say of empty masks:

=====================  ==========  ================  =============
metric                 both empty  empty prediction  empty truth
=====================  ==========  ================  =============
Dice, IoU, NSD         1           0                 0
HD95                   0           infinite          infinite
volume error           0           minus the truth   the prediction
relative difference    undefined   -1                undefined
=====================  ==========  ================  =============

`CaseMetrics` puts the scan's diagonal in the place of an infinite HD95, so that a missed case
counts in a mean. Undefined is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.evaluation.lesions import LesionCounts, count_lesions
from hemseg_cli.evaluation.surfaces import MaskPair, mask_pair, surface_distances_mm, surfaces

MM3_PER_ML = 1000.0
_PERCENTILE = 95.0
_UNIT = (1.0, 1.0, 1.0)
Mask = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CaseMetrics:
    """The masks of one case and what is measured on them, each number when it is first asked for.

    `voxel_volume_mm3`: the true one, gantry tilt accounted for. `tolerance_mm`: of the normalised
    surface Dice. `paper_pair`: both masks on the published grid, where that protocol is scored.
    `volume_interval_ml`: the interval of the true volume that the run stated.
    """

    pair: MaskPair
    voxel_volume_mm3: float
    tolerance_mm: float
    paper_pair: MaskPair | None = None
    volume_interval_ml: tuple[float, float] | None = None

    @cached_property
    def dice(self) -> float:
        """Dice coefficient; 1 if both masks are empty, 0 if one is."""
        return _dice(self.pair)

    @cached_property
    def iou(self) -> float:
        """Intersection over union; 1 if both masks are empty, 0 if one is."""
        return _iou(self.pair)

    @cached_property
    def hd95_mm(self) -> float:
        """95th-percentile Hausdorff distance, mm; the scan's diagonal where one mask is empty."""
        if self.one_is_empty:
            # A missed scan has no distance; the longest one that there is keeps it in the mean.
            return _diagonal_mm(self.pair.truth.shape, self.pair.steps_mm)

        return _hd95(*self._distances_mm) if self.pair.truth.count else 0.0

    @cached_property
    def nsd(self) -> float:
        """Normalised surface Dice at `tolerance_mm`; 1 if both masks are empty, 0 if one is."""
        # Without two surfaces: 1 where both masks are empty, else 0.
        if self.one_is_empty or not self.pair.truth.count:
            return float(not self.one_is_empty)

        return _nsd(*self._distances_mm, self.tolerance_mm)

    @cached_property
    def lesions(self) -> LesionCounts:
        """True, predicted, detected and false lesions."""
        return count_lesions(self.pair.prediction, self.pair.truth)

    @property
    def one_is_empty(self) -> bool:
        """Whether exactly one of the masks is empty."""
        return (self.pair.prediction.count == 0) != (self.pair.truth.count == 0)

    @property
    def truth_ml(self) -> float:
        """True volume, mL."""
        return self.pair.truth.count * self.voxel_volume_mm3 / MM3_PER_ML

    @property
    def predicted_ml(self) -> float:
        """Predicted volume, mL."""
        return self.pair.prediction.count * self.voxel_volume_mm3 / MM3_PER_ML

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus true volume, mL."""
        return self.predicted_ml - self.truth_ml

    @property
    def relative_volume_difference(self) -> float:
        """Volume error over true volume; NaN where there is no true volume."""
        return self.volume_error_ml / self.truth_ml if self.truth_ml > 0 else math.nan

    @cached_property
    def _distances_mm(self) -> tuple[Floats, Floats]:
        return surface_distances_mm(
            surfaces(self.pair), percentile=_PERCENTILE, tolerance_mm=self.tolerance_mm
        )


def case_metrics(
    prediction: Mask,
    truth: Mask,
    *,
    spacing_mm: Sequence[float] | Floats,
    voxel_volume_mm3: float,
    tolerance_mm: float,
) -> CaseMetrics:
    """Pair the masks of a case, each read once.

    `spacing_mm` (i, j, k; or the step vectors, `surfaces.mask_pair`) is for distances,
    `voxel_volume_mm3` for volumes. ValueError if the shapes differ.
    """
    return CaseMetrics(mask_pair(prediction, truth, spacing_mm), voxel_volume_mm3, tolerance_mm)


def dice(prediction: Mask, truth: Mask) -> float:
    """Return the Dice coefficient 2 |P and T| / (|P| + |T|); 1 if both are empty, 0 if one is."""
    return _dice(mask_pair(prediction, truth, _UNIT))


def iou(prediction: Mask, truth: Mask) -> float:
    """Return intersection over union (Jaccard); 1 if both are empty, 0 if one is."""
    return _iou(mask_pair(prediction, truth, _UNIT))


def hd95_mm(prediction: Mask, truth: Mask, *, spacing_mm: Sequence[float]) -> float:
    """Return the 95th-percentile Hausdorff distance, mm, as MONAI computes it.

    The larger of the two directed 95th percentiles between surface voxels (a face on background),
    interpolated linearly. 0 if both are empty, infinite if one is.
    """
    return hd95_of(mask_pair(prediction, truth, spacing_mm))


def hd95_of(pair: MaskPair) -> float:
    """Return `hd95_mm` of masks that were read already."""
    if not pair.prediction.count or not pair.truth.count:
        return 0.0 if pair.prediction.count == pair.truth.count else math.inf

    return _hd95(*surface_distances_mm(surfaces(pair), percentile=_PERCENTILE))


def nsd(
    prediction: Mask, truth: Mask, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Return the normalised surface Dice: the share of both surfaces near the other one.

    A surface voxel is near within `tolerance_mm`. Nikolov et al. 2018 (arXiv:1809.04430), counted
    in voxels as MONAI's `SurfaceDiceMetric`. 1 if both are empty, 0 if one is.
    """
    pair = mask_pair(prediction, truth, spacing_mm)
    return CaseMetrics(pair, 1.0, tolerance_mm).nsd


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float] | Floats) -> float:
    """Return the length of the scan's longest diagonal, mm: no distance in the scan is longer.

    `spacing_mm` (i, j, k) or the step vectors as the columns of a [3, 3] matrix.
    """
    given = np.asarray(spacing_mm, dtype=np.float64)
    return _diagonal_mm(shape, np.diag(given) if given.ndim == 1 else given.T)


def _diagonal_mm(shape: Sequence[int], steps_mm: Floats) -> float:
    # The four diagonals of a box (sheared or not) differ in the signs of its edges.
    edges = np.asarray(shape, dtype=np.float64)[:, None] * steps_mm
    signs = np.array([(1, *rest) for rest in product((1, -1), repeat=2)])
    return float(np.linalg.norm(signs @ edges, axis=1).max())


def _dice(pair: MaskPair) -> float:
    total = pair.prediction.count + pair.truth.count
    return 2 * pair.overlap / total if total else 1.0


def _iou(pair: MaskPair) -> float:
    overlap = pair.overlap
    union = pair.prediction.count + pair.truth.count - overlap
    return overlap / union if union else 1.0


def _hd95(to_truth: Floats, to_prediction: Floats) -> float:
    # Each direction has its own percentile: a far voxel of either mask counts.
    directed = (np.percentile(to_truth, _PERCENTILE), np.percentile(to_prediction, _PERCENTILE))
    return float(max(directed))


def _nsd(to_truth: Floats, to_prediction: Floats, tolerance_mm: float) -> float:
    # Surface voxels of both masks count alike, whichever surface is the larger.
    within = np.count_nonzero(to_truth <= tolerance_mm)
    within += np.count_nonzero(to_prediction <= tolerance_mm)
    return float(within / (to_truth.size + to_prediction.size))
