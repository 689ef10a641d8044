"""The list of lesions beside the viewer, and the HU counts: known by hand."""

import numpy as np
import pytest

from hemseg_cli.evaluation.lesions import count_lesions
from hemseg_cli.evaluation.surfaces import Foreground
from hemseg_cli.reporting.lesion_list import (
    HISTOGRAM_HU,
    MOST_LESIONS,
    compared_lesions,
    hu_counts,
    lesions_of,
)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Three true lesions, of which one is found, and a false one."""
    truth, prediction = np.zeros((2, 6, 20, 30), dtype=bool)
    truth[1:3, 2:5, 2:6] = True  # 24 voxels, found by one voxel
    prediction[2:5, 4:6, 5:8] = True
    truth[4, 15, 20:25] = True  # 5 voxels, missed
    truth[0, 0, 29] = True  # 1 voxel, missed
    prediction[5, 10:12, 1:3] = True  # 4 voxels, false
    return truth, prediction


def test_true_lesions_are_found_or_missed_and_others_false() -> None:
    listed, left_out = compared_lesions(*masks(), 0.5)
    assert [lesion["text"] for lesion in listed] == [
        "12.00 mL, found",
        "2.50 mL, missed",
        "2.00 mL, false",
        "0.50 mL, missed",
    ]
    assert left_out == 0
    truth, prediction = (
        Foreground(mask.shape, mask.ravel(), np.flatnonzero(mask)) for mask in masks()
    )
    counted = count_lesions(prediction, truth)
    kinds = [lesion["kind"] for lesion in listed]
    assert kinds.count("found") == counted.detected
    assert kinds.count("false") == counted.false


def test_each_jumps_into_its_own_voxels() -> None:
    truth, prediction = masks()
    for lesion in compared_lesions(truth, prediction, 1.0)[0]:
        row, column = int(lesion["y"] * 20), int(lesion["x"] * 30)
        assert (prediction if lesion["kind"] == "false" else truth)[lesion["slice"], row, column]


def test_a_crescent_is_jumped_into_not_beside() -> None:
    rows, columns = np.indices((40, 40))
    ring = np.abs(np.hypot(rows - 20, columns - 20) - 15) < 1.5
    mask = np.stack([np.zeros_like(ring), ring & (columns < 25)])
    (lesion,) = compared_lesions(mask, np.zeros_like(mask), 1.0)[0]
    assert mask[lesion["slice"], int(lesion["y"] * 40), int(lesion["x"] * 40)]


def test_uneven_slices_count_with_their_own_volume() -> None:
    mask = np.zeros((3, 4, 4), dtype=bool)
    mask[:, 1, 1] = True
    listed, _ = compared_lesions(mask, mask, np.array([1.0, 0.25, 2.0]))
    assert [lesion["ml"] for lesion in listed] == [pytest.approx(3.25)]


def test_of_very_many_the_largest_are_listed() -> None:
    mask = np.zeros((1, 81, 81), dtype=bool)
    mask[0, ::2, ::2] = True
    mask[0, 0, :2] = True
    listed, left_out = compared_lesions(mask, np.zeros_like(mask), 1.0)
    assert len(listed) == MOST_LESIONS
    assert left_out == 41 * 41 - 1 - MOST_LESIONS
    assert listed[0]["ml"] == 3.0  # the first row joins three


def test_components_touch_by_corners_as_in_the_evaluation() -> None:
    from scipy import ndimage

    mask = np.random.default_rng(0).random((5, 9, 9)) > 0.8
    _, count = ndimage.label(mask, np.ones((3, 3, 3)))
    found = lesions_of(mask)
    assert len(found) == count
    assert sum(len(voxels) for voxels in found) == mask.sum()
    assert lesions_of(np.zeros((2, 2, 2), dtype=bool)) == []


def test_hu_are_counted_within_the_mask() -> None:
    hu = np.array([[[-20.0, -17.0, 60.0, 61.9, 200.0, 60.0]]])
    mask = np.array([[[True, True, True, True, True, False]]])
    counts = hu_counts(hu, mask)
    assert len(counts) == len(HISTOGRAM_HU) - 1
    assert counts[0] == 2
    assert counts[20] == 2  # 60 to 64 HU
    assert sum(counts) == 4
