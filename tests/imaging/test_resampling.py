"""Resampling against hand calculation and scipy."""

import numpy as np
import pytest
from scipy import ndimage

from hemseg_cli.imaging.resampling import resample, resample_planes, resampled_shape


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
