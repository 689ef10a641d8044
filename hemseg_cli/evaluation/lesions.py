"""Lesion-wise detection: a lesion is a 26-connected component, and one shared voxel makes a detection."""

import math
from dataclasses import dataclass

import numpy as np

from hemseg_cli.evaluation.surfaces import Foreground
from hemseg_cli.imaging.components import component_of


@dataclass(frozen=True)
class LesionCounts:
    """`detected`: true lesions that share a voxel with the prediction; `false`.

    Predicted lesions that share none with the truth.

    Sums over cases give the rates of a whole split: add the counts, then ask.
    """

    truth: int
    predicted: int
    detected: int
    false: int

    @property
    def sensitivity(self) -> float:
        """Detected over true lesions; NaN where there are none."""
        return self.detected / self.truth if self.truth else math.nan

    @property
    def precision(self) -> float:
        """Predicted lesions that touch a true one, over all predicted; NaN where there are none."""
        return (self.predicted - self.false) / self.predicted if self.predicted else math.nan

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FN + FP), TP the detected, FN the undetected true and FP the false predicted lesions; NaN without any lesion."""
        total = self.detected + self.truth + self.false
        return 2 * self.detected / total if total else math.nan


def count_lesions(prediction: Foreground, truth: Foreground) -> LesionCounts:
    """The counts of one case; zeros where a mask is empty."""
    predicted, false = _components_apart(prediction, truth)
    true, undetected = _components_apart(truth, prediction)
    return LesionCounts(truth=true, predicted=predicted, detected=true - undetected, false=false)


def _components_apart(mask: Foreground, other: Foreground) -> tuple[int, int]:
    """How many components the mask has, and how many of them share no voxel with the other mask."""
    if mask.count == 0:
        return 0, 0
    of_voxel, count = component_of(mask.flat, mask.shape)
    touched = np.unique(of_voxel[other.line[mask.flat] != 0])
    return count, count - int(touched.size)
