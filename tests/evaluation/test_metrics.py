"""Metrics against shapes worked out by hand, MONAI and surface-distance."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

from hemseg_cli.evaluation.metrics import (
    CaseMetrics,
    case_metrics,
    diagonal_mm,
    dice,
    hd95_mm,
    iou,
    nsd,
)
from hemseg_cli.imaging.geometry import true_steps_mm

SPACING = (0.5, 0.75, 5.0)
Mask = NDArray[np.uint8]


def box(
    shape: tuple[int, int, int], *corners: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
) -> Mask:
    mask = np.zeros(shape, dtype=np.uint8)
    for (i0, i1), (j0, j1), (k0, k1) in corners:
        mask[i0:i1, j0:j1, k0:k1] = 1
    return mask


def ball(
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    radius_mm: float,
    spacing: tuple[float, ...],
) -> Mask:
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    away = sum(
        ((axis - c) * step) ** 2 for axis, c, step in zip((i, j, k), centre, spacing, strict=True)
    )
    return np.asarray(away <= radius_mm**2, dtype=np.uint8)


def scored(prediction: Mask, truth: Mask, **changes: Any) -> CaseMetrics:
    return case_metrics(
        prediction,
        truth,
        **{"spacing_mm": SPACING, "voxel_volume_mm3": 2.0, "tolerance_mm": 2.0} | changes,
    )


def test_two_boxes_that_overlap_by_half() -> None:
    truth = box((20, 20, 8), ((4, 8), (5, 10), (2, 4)))  # 4 x 5 x 2 = 40 voxels
    prediction = box((20, 20, 8), ((6, 10), (5, 10), (2, 4)))  # the same, two voxels (1 mm) along i
    found = scored(prediction, truth)
    assert found.dice == pytest.approx(2 * 20 / 80)
    assert found.iou == pytest.approx(20 / 60)
    assert found.truth_ml == pytest.approx(0.080)
    assert found.predicted_ml == pytest.approx(0.080)
    assert found.hd95_mm == pytest.approx(1.0)
    assert found.nsd == 1.0


def test_hd95_is_the_larger_of_the_two_directed_percentiles() -> None:
    truth = box((60, 5, 5), ((10, 11), (2, 3), (2, 3)))
    prediction = box((60, 5, 5), ((10, 11), (2, 3), (2, 3)), ((50, 51), (2, 3), (2, 3)))
    # Truth to prediction is 0; prediction to truth is 0 and 20 mm, whose 95th percentile is 19 mm.
    assert hd95_mm(prediction, truth, spacing_mm=SPACING) == pytest.approx(19.0)
    assert hd95_mm(truth, prediction, spacing_mm=SPACING) == pytest.approx(19.0)


@pytest.mark.parametrize(("tolerance_mm", "expected"), [(0.9, 0.0), (1.0, 1.0), (2.0, 1.0)])
def test_nsd_of_two_sheets_one_millimetre_apart(tolerance_mm: float, expected: float) -> None:
    truth, prediction = (
        box((9, 9, 4), ((2, 3), (0, 9), (0, 4))),
        box((9, 9, 4), ((4, 5), (0, 9), (0, 4))),
    )
    assert nsd(prediction, truth, spacing_mm=SPACING, tolerance_mm=tolerance_mm) == expected


def test_volumes_follow_the_true_voxel_volume_not_the_spacing() -> None:
    truth, prediction = (
        box((9, 9, 9), ((0, 5), (0, 5), (0, 4))),
        box((9, 9, 9), ((0, 5), (0, 5), (0, 5))),
    )
    found = scored(prediction, truth, voxel_volume_mm3=4.0)
    assert found.truth_ml == pytest.approx(0.4)
    assert found.predicted_ml == pytest.approx(0.5)
    assert found.volume_error_ml == pytest.approx(0.1)
    assert found.relative_volume_difference == pytest.approx(0.25)


def test_missed_case_counts_with_the_diagonal() -> None:
    truth = box((30, 40, 12), ((4, 8), (5, 10), (2, 4)))
    found = scored(np.zeros_like(truth), truth, spacing_mm=(1.0, 1.0, 10.0))
    assert found.truth_ml > 0
    assert found.predicted_ml == 0
    assert (found.dice, found.iou, found.nsd) == (0.0, 0.0, 0.0)
    assert found.hd95_mm == pytest.approx(130.0)  # 30, 40, 120
    assert found.relative_volume_difference == -1.0


def test_false_positive_on_empty_truth() -> None:
    prediction = box((30, 40, 12), ((4, 8), (5, 10), (2, 4)))
    found = scored(prediction, np.zeros_like(prediction))
    assert found.predicted_ml > 0
    assert (found.dice, found.iou, found.nsd) == (0.0, 0.0, 0.0)
    assert found.hd95_mm == pytest.approx(diagonal_mm(prediction.shape, SPACING))
    assert math.isnan(found.relative_volume_difference)


def test_both_empty_agree() -> None:
    empty = np.zeros((8, 8, 8), dtype=np.uint8)
    found = scored(empty, empty)
    assert (found.dice, found.iou, found.nsd, found.hd95_mm, found.volume_error_ml) == (
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
    )


def test_pure_functions_say_what_they_promise_of_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4), dtype=np.uint8), np.ones((4, 4, 4), dtype=np.uint8)
    assert hd95_mm(empty, full, spacing_mm=SPACING) == math.inf
    assert hd95_mm(full, empty, spacing_mm=SPACING) == math.inf
    assert hd95_mm(empty, empty, spacing_mm=SPACING) == 0.0
    assert (dice(empty, full), iou(full, empty), dice(empty, empty), iou(empty, empty)) == (
        0.0,
        0.0,
        1.0,
        1.0,
    )
    assert nsd(empty, full, spacing_mm=SPACING, tolerance_mm=2) == 0.0
    assert nsd(empty, empty, spacing_mm=SPACING, tolerance_mm=2) == 1.0


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and truth \(4, 4, 5\)"):
        dice(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)))


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int16, np.float32, np.float64, np.longdouble]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_number_type_and_memory_order_make_no_difference(dtype: type, order: Any) -> None:
    truth, prediction = (
        ball((23, 19, 7), (9, 9, 3), 4, SPACING),
        ball((23, 19, 7), (11, 8, 3), 4, SPACING),
    )
    found = scored(
        np.asarray(prediction.astype(dtype), order=order),
        np.asarray(truth.astype(dtype), order=order),
    )
    expected = scored(prediction, truth)
    for name in ("dice", "iou", "nsd", "truth_ml", "predicted_ml", "lesions"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.hd95_mm == pytest.approx(expected.hd95_mm, abs=1e-9)
    assert scored(prediction[::-1, :, ::-1], truth[::-1, :, ::-1]).dice == expected.dice


masks = hnp.arrays(np.uint8, (7, 6, 5), elements=st.sampled_from([0, 0, 0, 1]))


@settings(max_examples=60, deadline=None)
@given(prediction=masks, truth=masks | st.just(np.zeros((7, 6, 5), dtype=np.uint8)))
def test_agrees_with_monai_on_any_masks(prediction: Mask, truth: Mask) -> None:
    expected_dice, expected_iou, expected_hd95, expected_nsd = monai_chain(
        prediction, truth, SPACING
    )
    found = scored(prediction, truth, tolerance_mm=1.0)
    if truth.any():  # MONAI answers NaN for an empty truth
        assert found.dice == pytest.approx(expected_dice, abs=1e-5)
        assert found.iou == pytest.approx(expected_iou, abs=1e-5)
    if truth.any() and prediction.any():  # and infinite or NaN distances for an empty mask
        assert found.hd95_mm == pytest.approx(expected_hd95, abs=1e-5)
        assert found.nsd == pytest.approx(expected_nsd, abs=1e-5)


@pytest.mark.parametrize(
    ("centre", "radius_mm"),
    [((20, 20, 6), 6.0), ((25, 22, 6), 9.0), ((60, 66, 13), 7.0), ((8, 8, 2), 2.0)],
    ids=["inside", "overlapping", "far apart", "small and apart"],
)
def test_agrees_with_monai_on_larger_shapes(
    centre: tuple[float, float, float], radius_mm: float
) -> None:
    shape, spacing = (80, 84, 16), (0.5, 0.5, 2.5)
    truth, prediction = (
        ball(shape, (22, 20, 6), 8.0, spacing),
        ball(shape, centre, radius_mm, spacing),
    )
    expected_dice, expected_iou, expected_hd95, expected_nsd = monai_chain(
        prediction, truth, spacing, tolerance_mm=2.0
    )
    found = scored(prediction, truth, spacing_mm=spacing)
    assert found.dice == pytest.approx(expected_dice, abs=1e-5)
    assert found.iou == pytest.approx(expected_iou, abs=1e-5)
    assert found.hd95_mm == pytest.approx(expected_hd95, abs=1e-4)
    assert found.nsd == pytest.approx(expected_nsd, abs=1e-5)


def monai_chain(
    prediction: Mask, truth: Mask, spacing: tuple[float, ...], tolerance_mm: float = 1.0
) -> tuple[float, ...]:
    p, t = (
        torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, truth)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of empty masks
        return (
            float(compute_dice(p.float(), t.float())),
            float(compute_iou(p.float(), t.float())),
            float(
                compute_hausdorff_distance(
                    p, t, include_background=True, percentile=95, spacing=spacing
                )
            ),
            float(
                compute_surface_dice(p, t, [tolerance_mm], include_background=True, spacing=spacing)
            ),
        )


@pytest.mark.filterwarnings(
    "ignore:Please import .* from the `scipy.ndimage` namespace:DeprecationWarning"
)
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_agrees_with_surface_distance_within_its_definition(shift: int) -> None:
    # surface-distance puts its surface elements between voxels and weighs them by area: each may
    # lie half a voxel from ours.
    shape, spacing = (40, 40, 24), (1.0, 1.0, 1.0)
    truth, prediction = (
        ball(shape, (18, 18, 12), 8.0, spacing),
        ball(shape, (18 + shift, 18, 12), 9.0, spacing),
    )
    theirs = compute_surface_distances(truth.astype(bool), prediction.astype(bool), spacing)
    half_voxel_diagonal = math.sqrt(3) / 2
    assert hd95_mm(prediction, truth, spacing_mm=spacing) == pytest.approx(
        compute_robust_hausdorff(theirs, 95), abs=half_voxel_diagonal
    )
    ours = nsd(prediction, truth, spacing_mm=spacing, tolerance_mm=2.0)
    assert ours == pytest.approx(compute_surface_dice_at_tolerance(theirs, 2.0), abs=0.1)


def test_distances_of_a_tilted_scan_are_those_of_its_sheared_geometry() -> None:
    # A slice step of 5 mm along the table, which leans 20 degrees from the slices' normal: one
    # voxel straight above another is 5 mm away, and so it is in the header's right-angled grid; but
    # towards j the header is wrong.
    angle = math.radians(20)
    affine = np.eye(4)
    affine[:3, 1] = (0, math.cos(angle), -math.sin(angle))
    affine[:3, 2] = np.array((0, math.sin(angle), math.cos(angle))) * 5
    steps = true_steps_mm(affine, 20.0)
    assert steps[:, 2] == pytest.approx((0, 0, 5))
    assert np.linalg.det(steps) == pytest.approx(5 * math.cos(angle))

    truth, prediction = np.zeros((2, 8, 9, 4), dtype=np.uint8)
    truth[3, 4, 0] = prediction[3, 6, 2] = 1
    apart = 2 * affine[:3, 1] + 2 * np.array((0, 0, 5))
    found = scored(prediction, truth, spacing_mm=steps)
    assert found.hd95_mm == pytest.approx(float(np.linalg.norm(apart)))
    assert found.hd95_mm == pytest.approx(math.sqrt(4 + 100 - 40 * math.sin(angle)))


def test_sheared_distances_are_those_between_all_pairs_of_surface_voxels() -> None:
    random = np.random.default_rng(3)
    steps = np.array([[0.5, 0, 0.1], [0, 0.5, 1.4], [0, 0, 4.8]])
    truth, prediction = (
        ball((23, 19, 7), (9, 9, 3), 4, SPACING),
        ball((23, 19, 7), (12, 8, 3), 4, SPACING),
    )
    prediction[random.integers(0, 23, 6), random.integers(0, 19, 6), random.integers(0, 7, 6)] = 1
    edges = [np.argwhere(mask & ~binary_erosion(mask)) @ steps.T for mask in (prediction, truth)]
    away = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
    expected = max(np.percentile(away.min(axis), 95) for axis in (0, 1))
    for order in ("C", "F"):
        found = case_metrics(
            np.asarray(prediction, order=order),
            np.asarray(truth, order=order),
            spacing_mm=steps,
            voxel_volume_mm3=1.0,
            tolerance_mm=2.0,
        )
        assert found.hd95_mm == pytest.approx(float(expected))
