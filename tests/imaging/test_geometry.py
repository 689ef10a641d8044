"""Millimetres, tilt and true voxel volume, by hand."""

import math

import numpy as np
import pytest

from hemseg_cli.imaging import geometry
from hemseg_cli.imaging.upright import upright_grid

TILTS = [0.0, 12.5, -22.0, 30.0]


def gantry_affine(
    tilt_deg: float, *, sheared: bool, pixel_mm: float = 0.5, distance_mm: float = 5.0
) -> geometry.Affine:
    """L-P-S axes; the normal leans to anterior by the tilt.

    Slices start straight along the table (S).
    """
    tilt = math.radians(tilt_deg)
    normal = np.array([0.0, math.sin(tilt), math.cos(tilt)])
    between_origins = distance_mm / math.cos(tilt)
    affine = np.eye(4)
    affine[:3, 0] = [-pixel_mm, 0.0, 0.0]
    affine[:3, 1] = np.array([0.0, -math.cos(tilt), math.sin(tilt)]) * pixel_mm
    affine[:3, 2] = np.array([0.0, 0.0, between_origins]) if sheared else normal * between_origins
    return affine


def test_lps_and_ras_differ_in_the_sign_of_x_and_y() -> None:
    affine = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(geometry.lps_to_ras(affine)[:, 3], [-3.0, -7.0, 11.0, 15.0])
    np.testing.assert_array_equal(geometry.lps_to_ras(geometry.lps_to_ras(affine)), affine)


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("sheared", [True, False])
def test_tilt_and_true_volume_come_from_either_affine(tilt: float, sheared: bool) -> None:
    affine = gantry_affine(tilt, sheared=sheared)
    assert geometry.tilt_deg(affine) == pytest.approx(tilt, abs=1e-9)
    assert geometry.true_voxel_volume_mm3(affine) == pytest.approx(1.25)
    assert geometry.spacing_mm(affine) == pytest.approx(
        (0.5, 0.5, 5.0 / math.cos(math.radians(tilt)))
    )
    assert geometry.is_sheared(affine) == (sheared and tilt != 0)


def test_the_header_claims_too_much_of_a_tilted_label() -> None:
    affine = gantry_affine(30.0, sheared=False)
    assert geometry.header_voxel_volume_mm3(affine) / geometry.true_voxel_volume_mm3(
        affine
    ) == pytest.approx(1 / math.cos(math.pi / 6))


def test_half_a_degree_is_no_tilt() -> None:
    affine = gantry_affine(0.4, sheared=False)
    assert geometry.true_voxel_volume_mm3(affine) == geometry.header_voxel_volume_mm3(affine)


@pytest.mark.parametrize(
    "flip",
    [np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0]), np.eye(4)[[2, 0, 1, 3]]],
)
def test_tilt_does_not_depend_on_the_order_of_the_axes(flip: geometry.Affine) -> None:
    assert geometry.tilt_deg(gantry_affine(-18.5, sheared=True) @ flip) == pytest.approx(-18.5)


@pytest.mark.parametrize("tilt", TILTS)
def test_upright_grid_is_right_angled_along_the_table_and_holds_every_slice(tilt: float) -> None:
    sheared = gantry_affine(tilt, sheared=True)
    grid = upright_grid((40, 50, 12), sheared)
    axes = grid.affine[:3, :3] / geometry.spacing_mm(grid.affine)
    np.testing.assert_allclose(axes, np.diag([-1.0, -1.0, 1.0]), atol=1e-9)
    np.testing.assert_allclose(geometry.spacing_mm(grid.affine), (0.5, 0.5, 5.0), rtol=1e-9)
    corners = np.array([[i, j, k, 1.0] for i in (0, 39) for j in (0, 49) for k in (0, 11)])
    indices = (np.linalg.inv(grid.affine) @ sheared @ corners.T).T
    assert indices[:, :3].min() >= -1e-6
    assert (indices[:, :3].max(axis=0) <= np.array(grid.shape) - 1 + 1e-6).all()
    assert (indices[:, :3].max(axis=0) > np.array(grid.shape) - 2 - 1e-6).all()


def test_the_distance_of_two_grids_is_that_of_the_corner_furthest_apart() -> None:
    grid, shape = np.diag([0.5, 0.5, 5.0, 1.0]), (11, 21, 31)
    assert geometry.grid_distance_mm(shape, grid, shape, grid) == 0.0

    moved = grid.copy()
    moved[:3, 3] = [3.0, 4.0, 0.0]
    assert geometry.grid_distance_mm(shape, grid, shape, moved) == pytest.approx(5.0)

    wider = np.diag([0.5, 0.5, 5.01, 1.0])
    assert geometry.grid_distance_mm(shape, grid, shape, wider) == pytest.approx(0.3)


def test_the_distance_is_not_that_of_the_first_voxel_alone_nor_of_the_last() -> None:
    # Turned about its middle: the first corner moves one way, the last the other.
    shape, angle = (101, 101, 2), math.radians(0.1)
    turned = np.eye(4)
    turned[:2, :2] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    turned[:3, 3] = np.array([50.0, 50, 0]) - turned[:3, :3] @ [50.0, 50, 0]
    assert geometry.grid_distance_mm(shape, np.eye(4), shape, turned) == pytest.approx(
        2 * 50 * math.sqrt(2) * math.sin(angle / 2)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_other_shapes_and_numbers_that_are_none_are_infinitely_far(value: float) -> None:
    bad = np.eye(4)
    bad[0, 3] = value
    assert geometry.grid_distance_mm((2, 3, 4), np.eye(4), (2, 3, 4), bad) == math.inf
    assert geometry.grid_distance_mm((2, 3, 4), np.eye(4), (4, 3, 2), np.eye(4)) == math.inf


def test_a_right_angled_tilt_is_told_from_a_sheared_and_from_a_straight_one() -> None:
    assert geometry.is_right_angled_tilt(gantry_affine(20.0, sheared=False))
    assert not geometry.is_right_angled_tilt(gantry_affine(20.0, sheared=True))
    assert not geometry.is_right_angled_tilt(gantry_affine(0.0, sheared=False))


def test_an_oblique_file_of_unknown_origin_has_the_volume_of_its_header_and_a_warning() -> None:
    rotated = gantry_affine(20.0, sheared=False)
    volume, warning = geometry.foreign_voxel_volume_mm3(rotated)
    assert volume == pytest.approx(1.25 / math.cos(math.radians(20)))
    assert f"{volume:.4g} mm3" in warning
    assert "1.25 mm3 (-6.0%)" in warning


@pytest.mark.parametrize("sheared", [True, False])
def test_straight_and_sheared_files_need_no_warning(sheared: bool) -> None:
    affine = gantry_affine(20.0 if sheared else 0.0, sheared=sheared)
    volume, warning = geometry.foreign_voxel_volume_mm3(affine)
    assert (volume, warning) == (pytest.approx(1.25), "")


def test_a_header_rotated_by_20_degrees_keeps_its_millilitres() -> None:
    turn = math.radians(20.0)
    straight = np.diag([-0.5, -0.5, 4.5, 1.0])
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    voxels = round(38_000 / 1.125)
    for affine in (straight, rotation @ straight):
        volume, _ = geometry.foreign_voxel_volume_mm3(affine)
        assert voxels * volume / 1000 == pytest.approx(38.00, abs=0.005)
