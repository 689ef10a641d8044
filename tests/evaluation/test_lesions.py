"""Lesion-wise detection, counted by hand."""

import numpy as np

from hemseg_cli.evaluation.lesions import LesionCounts, count_lesions
from hemseg_cli.evaluation.surfaces import foreground


def drawn(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((12, 12, 6), dtype=np.uint8)
    for voxel in voxels:
        mask[voxel] = 1
    return mask


def counts(prediction: np.ndarray, truth: np.ndarray) -> LesionCounts:
    return count_lesions(foreground(prediction), foreground(truth))


def test_one_found_one_missed_one_invented() -> None:
    found = counts(drawn((1, 1, 1), (9, 9, 4)), drawn((1, 1, 1), (1, 2, 1), (5, 5, 5)))
    assert found == LesionCounts(truth=2, predicted=2, detected=1, false=1)


def test_corners_join_a_lesion() -> None:
    assert counts(drawn(), drawn((1, 1, 1), (2, 2, 2), (3, 1, 3))).truth == 1


def test_one_predicted_lesion_may_detect_two() -> None:
    bridge = drawn(*((i, 5, 2) for i in range(2, 9)))
    found = counts(bridge, drawn((2, 5, 2), (8, 5, 2)))
    assert found == LesionCounts(truth=2, predicted=1, detected=2, false=0)


def test_touching_is_not_detecting() -> None:
    assert counts(drawn((4, 4, 2)), drawn((5, 4, 2))) == LesionCounts(
        truth=1, predicted=1, detected=0, false=1
    )


def test_empty_masks_have_no_rates() -> None:
    nothing = counts(drawn(), drawn())
    assert nothing == LesionCounts(0, 0, 0, 0)
    assert counts(drawn((1, 1, 1)), drawn()) == LesionCounts(
        truth=0, predicted=1, detected=0, false=1
    )
