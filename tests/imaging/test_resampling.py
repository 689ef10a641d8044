"""Resampling against hand calculation and scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from hemseg_cli.imaging.resampling import (
    average_thin,
    majority_of_thin,
    resample,
    resample_planes,
    resampled_shape,
)


def test_linear_is_exact_on_a_ramp_and_repeats_the_edge() -> None:
    ramp = np.broadcast_to(np.arange(0, 12, 2.0, dtype=np.float32)[:, None, None], (6, 3, 3))
    fine = resample(ramp, (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (12, 3, 3), linear=True)
    np.testing.assert_allclose(fine[:, 1, 1], [*range(11), 10], atol=1e-6)
    assert fine.dtype == np.float32


def test_linear_is_scipys() -> None:
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    spacing, new = (1.0, 0.8, 3.0), (0.7, 1.3, 2.0)
    shape = resampled_shape(array.shape, spacing, new)
    points = np.meshgrid(
        *(np.arange(n) * b / a for n, a, b in zip(shape, spacing, new, strict=True)), indexing="ij"
    )
    expected = ndimage.map_coordinates(array, points, order=1, mode="nearest")
    np.testing.assert_allclose(
        resample(array, spacing, new, shape, linear=True), expected, atol=1e-5
    )


def test_nearest_keeps_type_and_values() -> None:
    mask = (np.arange(4 * 4 * 4).reshape(4, 4, 4) % 3 == 0).astype(np.uint8)
    twice = resample(mask, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (7, 7, 7), linear=False)
    assert twice.dtype == np.uint8
    np.testing.assert_array_equal(twice[::2, ::2, ::2], mask)


def test_the_same_grid_changes_nothing() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.testing.assert_array_equal(
        resample(array, (1, 1, 5), (1, 1, 5), (2, 3, 4), linear=False), array
    )
    assert resample(array, (1, 1, 5), (1, 1, 5), (2, 3, 4), linear=True).dtype == np.float32


def test_a_grid_may_start_elsewhere() -> None:
    array = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    part = resample(array, (1, 1, 1), (1, 1, 1), (3, 2, 2), linear=True, origin_mm=(4.5, 0, 0))
    np.testing.assert_allclose(part[:, 0, 0], [4.5, 5.5, 6.5], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((512, 512, 32), (0.488281, 0.488281, 5.0), (512, 512, 34)),  # 31 * 5 / 4.6494 = 33.3
        ((33, 40, 24), (0.4, 0.6, 5.4), (27, 49, 28)),  # 26.2, 47.9, 26.7
        ((1, 2, 3), (1.0, 1.0, 1.0), (1, 3, 1)),  # 0, 2.05, 0.43
    ],
)
def test_the_shape_reaches_from_the_first_to_the_last_centre(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], expected: tuple[int, int, int]
) -> None:
    # What monai.data.utils.compute_shape_offset gives for the same grids.
    wanted = (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
    assert resampled_shape(shape, spacing, wanted) == expected


def test_planes_are_interpolated_at_their_places() -> None:
    planes = np.array([[0], [10], [40]], dtype=np.int16)
    new = resample_planes(planes, np.array([0.0, 1.0, 4.0]), np.array([0.0, 0.5, 2.0, 3.26, 4.0]))
    np.testing.assert_array_equal(new[:, 0], [0, 5, 20, 33, 40])
    assert new.dtype == np.int16
    np.testing.assert_allclose(
        resample_planes(planes.astype(np.float32), np.array([0.0, 1.0, 4.0]), np.array([0.05]))[0],
        [0.5],
    )


def test_thin_slices_are_averaged_over_the_thickness_of_the_new_ones() -> None:
    thin = np.arange(15, dtype=np.int16)[None, None] * np.ones((2, 2, 1), np.int16)
    # From the first centre on, half of the first new slice lies beyond the scan.
    thick, (spacing, origin) = average_thin(thin, (1, 1, 1), (1, 1, 5), (2, 2, 3))
    np.testing.assert_allclose(thick[1, 1], [1.0, 5.0, 10.0])  # means of 0-2, 3-7, 8-12
    assert (spacing, origin) == ((1, 1, 5), (0.0, 0.0, 0.0))

    # A new slice that begins in the middle of an old one has half of it: (0.5 * 2 + 3 + 4) / 2.5.
    shifted, _ = average_thin(thin, (1, 1, 1), (1, 1, 2.5), (2, 2, 1), (0.0, 0.0, 3.25))
    np.testing.assert_allclose(shifted[0, 0], [(0.5 * 2 + 3 + 4) / 2.5])

    # Beyond the end the last slice is repeated, as in linear interpolation.
    beyond, _ = average_thin(thin, (1, 1, 1), (1, 1, 2), (2, 2, 1), (0.0, 0.0, 40.0))
    np.testing.assert_allclose(beyond[0, 0], [14.0])


def test_average_of_whole_groups_is_torchs_pooling_along_every_axis() -> None:
    array = np.random.default_rng(0).normal(size=(12, 8, 15)).astype(np.float32)
    pooled = torch.nn.functional.avg_pool3d(torch.from_numpy(array)[None], (3, 2, 5))[0]
    ours, _ = average_thin(array, (1, 1, 1), (3, 2, 5), (4, 4, 3), (1.0, 0.5, 2.0))
    np.testing.assert_allclose(ours, pooled.numpy(), atol=1e-6)


def test_axes_that_are_not_thin_are_left_to_interpolation() -> None:
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    same, grid = average_thin(array, (1, 1, 4), (1.4, 0.5, 5), (7, 15, 6), (0.1, 0.2, 0.3))
    np.testing.assert_array_equal(same, array)
    assert grid == ((1, 1, 4), (0.1, 0.2, 0.3))


def test_thick_slice_is_labelled_where_labels_fill_half_of_it() -> None:
    label = np.zeros((1, 1, 12), np.uint8)
    label[0, 0] = [0, 2, 0, 0, 2, 2, 0, 1, 1, 0, 2, 1]
    # Four slices each: a quarter is labelled; most is 2; most is 1, which has half of it.
    for values, expected in ((label, [0, 2, 1]), (np.zeros_like(label), [0, 0, 0])):
        thick, (spacing, _) = majority_of_thin(
            values, (1, 1, 1), (1, 1, 4), (1, 1, 3), (0.0, 0.0, 1.5)
        )
        np.testing.assert_array_equal(thick[0, 0], expected)
        assert thick.dtype == np.uint8
        assert spacing == (1, 1, 4)
