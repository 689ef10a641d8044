"""Voxel and surface metrics of one pair of masks.

Pure functions on 3-D masks [i, j, k], non-zero = hemorrhage.

What they say of empty masks:

=====================  ==========  ================  =============
metric                 both empty  empty prediction  empty truth
=====================  ==========  ================  =============
Dice, IoU, NSD         1           0                 0
HD95                   0           infinite          infinite
volume error           0           minus the truth   the prediction
relative difference    undefined   -1                undefined
=====================  ==========  ================  =============

`case_metrics` puts the scan's diagonal in the place of an infinite HD95, so that a missed case
counts in a mean. Undefined is NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.evaluation.lesions import LesionCounts, count_lesions
from hemseg_cli.evaluation.surfaces import MaskPair, mask_pair, surface_distances_mm, surfaces

MM3_PER_ML = 1000.0
_PERCENTILE = 95.0
_UNIT = (1.0, 1.0, 1.0)
Mask = NDArray[Any]


@dataclass(frozen=True)
class CaseMetrics:
    """One case. `truth_ml` and `predicted_ml` by the true voxel volume.

    `nsd` at the tolerance that was asked for.

    `hd95_mm` is the scan's diagonal where one mask alone is empty: `missed` (no voxel predicted of
    a hemorrhage) or `false_positive` (voxels predicted where there is none).
    """

    dice: float
    iou: float
    hd95_mm: float
    nsd: float
    truth_ml: float
    predicted_ml: float
    lesions: LesionCounts

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus true volume, mL."""
        return self.predicted_ml - self.truth_ml

    @property
    def relative_volume_difference(self) -> float:
        """Volume error over true volume; NaN where there is no true volume."""
        return self.volume_error_ml / self.truth_ml if self.truth_ml > 0 else math.nan

    @property
    def missed(self) -> bool:
        """A hemorrhage of which nothing was predicted."""
        return self.truth_ml > 0 and self.predicted_ml == 0

    @property
    def false_positive(self) -> bool:
        """Something predicted in a scan without hemorrhage."""
        return self.truth_ml == 0 and self.predicted_ml > 0


def case_metrics(
    prediction: Mask,
    truth: Mask,
    *,
    spacing_mm: Sequence[float],
    voxel_volume_mm3: float,
    tolerance_mm: float,
) -> CaseMetrics:
    """Every metric of a case, each mask read once.

    `spacing_mm` (i, j, k) is for distances, `voxel_volume_mm3` (tilt accounted for) for volumes.
    ValueError if the shapes differ.
    """
    pair = mask_pair(prediction, truth, spacing_mm)
    return metrics_of(pair, voxel_volume_mm3=voxel_volume_mm3, tolerance_mm=tolerance_mm)


def metrics_of(pair: MaskPair, *, voxel_volume_mm3: float, tolerance_mm: float) -> CaseMetrics:
    """`case_metrics` of masks that were already read."""
    p, t, overlap = pair.prediction, pair.truth, pair.overlap
    if p.count and t.count:
        distances = surface_distances_mm(
            surfaces(pair), percentile=_PERCENTILE, tolerance_mm=tolerance_mm
        )
        hd95, nsd_value = _hd95(*distances), _nsd(*distances, tolerance_mm)
    else:
        hd95 = 0.0 if p.count == t.count else diagonal_mm(t.shape, pair.spacing_mm)
        nsd_value = float(p.count == t.count)
    return CaseMetrics(
        dice=_dice(pair, overlap),
        iou=_iou(pair, overlap),
        hd95_mm=hd95,
        nsd=nsd_value,
        truth_ml=t.count * voxel_volume_mm3 / MM3_PER_ML,
        predicted_ml=p.count * voxel_volume_mm3 / MM3_PER_ML,
        lesions=count_lesions(p, t),
    )


def dice(prediction: Mask, truth: Mask) -> float:
    """Dice coefficient 2 |P and T| / (|P| + |T|); 1 if both are empty, 0 if one is."""
    pair = mask_pair(prediction, truth, _UNIT)
    return _dice(pair, pair.overlap)


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union (Jaccard); 1 if both are empty, 0 if one is."""
    pair = mask_pair(prediction, truth, _UNIT)
    return _iou(pair, pair.overlap)


def hd95_mm(prediction: Mask, truth: Mask, *, spacing_mm: Sequence[float]) -> float:
    """95th-percentile Hausdorff distance, mm.

    The larger of the two directed 95th percentiles, as MONAI computes it.

    Between surface voxels (a face on background), percentiles interpolated linearly. 0 if both are
    empty, infinite if one is.
    """
    pair = mask_pair(prediction, truth, spacing_mm)
    if not pair.prediction.count or not pair.truth.count:
        return 0.0 if pair.prediction.count == pair.truth.count else math.inf
    return _hd95(*surface_distances_mm(surfaces(pair), percentile=_PERCENTILE))


def nsd(
    prediction: Mask, truth: Mask, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Normalised surface Dice: the share of both masks' surface voxels within `tolerance_mm` of the other surface.

    Nikolov et al. 2018 (arXiv:1809.04430), counted in voxels as MONAI's `SurfaceDiceMetric`. 1 if
    both are empty, 0 if one is.
    """
    pair = mask_pair(prediction, truth, spacing_mm)
    if not pair.prediction.count or not pair.truth.count:
        return float(pair.prediction.count == pair.truth.count)
    return _nsd(
        *surface_distances_mm(surfaces(pair), percentile=_PERCENTILE, tolerance_mm=tolerance_mm),
        tolerance_mm,
    )


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the scan's diagonal, mm: no distance inside the scan is longer."""
    return math.hypot(*(size * step for size, step in zip(shape, spacing_mm, strict=True)))


def _dice(pair: MaskPair, overlap: int) -> float:
    total = pair.prediction.count + pair.truth.count
    return 2 * overlap / total if total else 1.0


def _iou(pair: MaskPair, overlap: int) -> float:
    union = pair.prediction.count + pair.truth.count - overlap
    return overlap / union if union else 1.0


def _hd95(to_truth: NDArray[np.float64], to_prediction: NDArray[np.float64]) -> float:
    return max(
        float(np.percentile(to_truth, _PERCENTILE)),
        float(np.percentile(to_prediction, _PERCENTILE)),
    )


def _nsd(
    to_truth: NDArray[np.float64], to_prediction: NDArray[np.float64], tolerance_mm: float
) -> float:
    within = np.count_nonzero(to_truth <= tolerance_mm) + np.count_nonzero(
        to_prediction <= tolerance_mm
    )
    return float(within / (to_truth.size + to_prediction.size))
