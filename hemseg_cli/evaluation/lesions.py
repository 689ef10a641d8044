"""Lesion-wise detection: a lesion is a 26-connected component, one shared voxel detects it."""

from dataclasses import dataclass

import numpy as np

from hemseg_cli.evaluation.surfaces import Foreground
from hemseg_cli.imaging.components import component_of


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one case, or sums over cases.

    `detected`: true lesions that share a voxel with the prediction; `false`: predicted lesions that
    share none with the truth.
    """

    truth: int
    predicted: int
    detected: int
    false: int


def count_lesions(prediction: Foreground, truth: Foreground) -> LesionCounts:
    """Count the lesions of one case; zeros where a mask is empty."""
    # Each mask's components are looked for in the other.
    predicted, false = _components_apart(prediction, truth)
    true, undetected = _components_apart(truth, prediction)
    return LesionCounts(truth=true, predicted=predicted, detected=true - undetected, false=false)


def _components_apart(mask: Foreground, other: Foreground) -> tuple[int, int]:
    """Count the mask's components, and those that share no voxel with the other mask."""
    if mask.count == 0:
        return 0, 0

    # Number the components, and look which numbers the other mask has a voxel of.
    of_voxel, count = component_of(mask.flat, mask.shape)
    touched = np.unique(of_voxel[other.line[mask.flat] != 0])
    return count, count - int(touched.size)
