"""Uneven slices: lengths, the way to an even grid and back, and volumes by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.imaging.uneven import (
    UnevenSlices,
    are_even,
    even_positions_mm,
    mask_volume_ml,
    network_slices,
    onto_even_slices,
    onto_own_slices,
    slice_thickness_mm,
)

TWO_PART = np.concatenate([np.arange(14) * 4.0, [53.08], 53.08 + np.arange(1, 14) * 7.0])


def ball(positions_mm: Any, centre_mm: float, radius_mm: float, pixel_mm: float) -> Any:
    """A sphere sampled at the centres of pixels and slices."""
    side = np.arange(-40.0, 40.0, pixel_mm) + pixel_mm / 2
    x, y, z = side[:, None, None], side[None, :, None], positions_mm[None, None, :] - centre_mm
    return x**2 + y**2 + z**2 <= radius_mm**2


def test_each_slice_reaches_half_way_to_its_neighbours() -> None:
    np.testing.assert_allclose(
        slice_thickness_mm(np.array([0.0, 4.0, 8.0, 18.0, 28.0])), [4.0, 4.0, 7.0, 10.0, 10.0]
    )
    np.testing.assert_allclose(slice_thickness_mm(np.array([3.0, 5.5])), [2.5, 2.5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 12.0), min_size=1, max_size=30))
def test_lengths_add_up_to_the_scan_and_half_a_slice_at_each_end(steps: list[float]) -> None:
    positions = np.concatenate([[0.0], np.cumsum(steps)])
    whole = positions[-1] + steps[0] / 2 + steps[-1] / 2
    assert slice_thickness_mm(positions).sum() == pytest.approx(whole)
    assert (slice_thickness_mm(positions) > 0).all()


@pytest.mark.parametrize("centre_mm", [24.0, 54.0, 70.0, 100.0])
def test_a_sphere_keeps_its_volume_wherever_it_lies_in_a_two_part_series(centre_mm: float) -> None:
    radius = 24.0
    mask = ball(TWO_PART, centre_mm, radius, 0.5)
    by_hand_ml = 4 / 3 * math.pi * radius**3 / 1000
    assert mask_volume_ml(mask, 0.25, TWO_PART) == pytest.approx(by_hand_ml, rel=0.02)


def test_slices_of_one_length_would_be_wrong_by_more_than_a_tenth() -> None:
    mask = ball(TWO_PART, 100.0, 24.0, 0.5)
    mean_step = float(np.diff(TWO_PART).mean())
    naive_ml = np.count_nonzero(mask) * 0.25 * mean_step / 1000
    assert abs(naive_ml / mask_volume_ml(mask, 0.25, TWO_PART) - 1) > 0.1


@pytest.mark.parametrize("count", [20, 34, 60])
def test_a_mask_of_the_even_grid_comes_back_on_the_nearest_slices(count: int) -> None:
    even = even_positions_mm(TWO_PART, count)
    values = np.broadcast_to(np.arange(count), (3, 2, count))
    back = onto_own_slices(values, TWO_PART)
    assert back.shape == (3, 2, len(TWO_PART))
    by_hand = [min(range(count), key=lambda n: (abs(even[n] - place), n)) for place in TWO_PART]
    np.testing.assert_array_equal(back[1, 1], by_hand)


def test_an_image_linear_in_millimetres_stays_so_on_even_slices() -> None:
    image = np.broadcast_to((10.0 * TWO_PART).astype(np.float32), (2, 3, len(TWO_PART)))
    even = onto_even_slices(image, TWO_PART, 40)
    np.testing.assert_allclose(even[0, 0], 10.0 * even_positions_mm(TWO_PART, 40), atol=1e-3)


def test_even_slices_go_and_come_back_unchanged() -> None:
    positions = np.arange(9) * 5.0
    image = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 9)).astype(np.int16)
    even = onto_even_slices(image, positions, 9)
    np.testing.assert_array_equal(onto_own_slices(even, positions), image)


def test_steps_are_even_but_for_the_rounding_of_decimal_strings() -> None:
    assert are_even(np.arange(9) * 5.0 + np.tile([0.0, 0.02, -0.02], 3))
    assert not are_even(TWO_PART)
    assert not are_even(np.array([0.0, 5.0, 10.0, 15.4]))


def test_network_sees_the_steps_of_the_finest_part() -> None:
    assert network_slices(TWO_PART) == round(TWO_PART[-1] / 4.0) + 1
    mostly_coarse = np.concatenate([np.arange(5) * 2.5, 10.0 + np.arange(1, 11) * 10.0])
    assert network_slices(mostly_coarse) == 45
    # A single short step is a seam, not a part.
    assert network_slices(np.array([0.0, 5.0, 10.0, 11.0, 16.0, 21.0, 26.0])) == 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_may_lie_along_any_axis(axis: int) -> None:
    uneven = UnevenSlices(axis, TWO_PART, network_slices(TWO_PART))
    ramp = np.moveaxis(np.broadcast_to(TWO_PART, (2, 3, len(TWO_PART))), 2, axis)
    even = np.moveaxis(uneven.even(ramp), axis, 2)
    np.testing.assert_allclose(even[0, 0], even_positions_mm(TWO_PART, uneven.even_count))

    volumes = uneven.voxel_volumes_mm3(0.25)
    assert np.broadcast_to(volumes, ramp.shape).shape == ramp.shape
    np.testing.assert_allclose(volumes.ravel(), slice_thickness_mm(TWO_PART) * 0.25)
