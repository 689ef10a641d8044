"""One head through many gantries.

Its volume stays, and a threshold alone does not find the blood.
"""

import math

import numpy as np
import pytest

from hemseg_cli.dataset.phantom.gantry import Gantry
from hemseg_cli.dataset.phantom.scanner import draw_head
from hemseg_cli.imaging.geometry import (
    header_voxel_volume_mm3,
    spacing_mm,
    tilt_deg,
    true_voxel_volume_mm3,
)


@pytest.mark.parametrize("tilt", [0.0, 22.0, -22.0, 30.0])
def test_head_of_known_volume_measures_the_same_through_any_gantry(tilt: float) -> None:
    scan = draw_head(
        4,
        gantry=Gantry(matrix=160, slices=40, slice_distance_mm=4.0, tilt_deg=tilt),
        volumes_ml=(45.0, 20.0),
    )
    measured_ml = np.count_nonzero(scan.label.array) * scan.voxel_volume_mm3 / 1000
    assert scan.truth_ml == pytest.approx(65.0, rel=1e-3)
    assert measured_ml == pytest.approx(65.0, rel=0.01)
    by_header_ml = (
        np.count_nonzero(scan.label.array) * header_voxel_volume_mm3(scan.label.affine) / 1000
    )
    assert by_header_ml == pytest.approx(65.0 / math.cos(math.radians(tilt)), rel=0.01)


@pytest.mark.parametrize("tilt", [-18.5, 0.0, 25.0])
def test_grids_state_tilt_and_true_voxel_volume(tilt: float) -> None:
    gantry = Gantry(matrix=16, slices=6, fov_mm=200.0, slice_distance_mm=5.0, tilt_deg=tilt)
    volume_mm3 = (200 / 16) ** 2 * 5.0
    assert tilt_deg(gantry.label_affine) == pytest.approx(tilt, abs=1e-6)
    assert tilt_deg(gantry.true_affine) == pytest.approx(tilt, abs=1e-6)
    assert true_voxel_volume_mm3(gantry.label_affine) == pytest.approx(volume_mm3)
    assert header_voxel_volume_mm3(gantry.true_affine) == pytest.approx(volume_mm3)
    assert spacing_mm(gantry.label_affine)[2] == pytest.approx(5.0 / math.cos(math.radians(tilt)))


def test_head_stands_at_the_same_place_in_true_millimetres_whatever_the_tilt() -> None:
    middles = []
    for tilt in (0.0, 24.0):
        scan = draw_head(
            2,
            gantry=Gantry(matrix=96, slices=36, slice_distance_mm=4.5, tilt_deg=tilt),
            volumes_ml=(30.0,),
        )
        index = np.argwhere(scan.label.array == 1).mean(axis=0)
        middles.append(scan.true_affine @ [*index, 1.0])
    np.testing.assert_allclose(middles[0], middles[1], atol=0.5)


def test_no_threshold_segments_the_blood() -> None:
    best = []
    for seed in range(3):
        scan = draw_head(
            seed, gantry=Gantry(matrix=96, slices=28, slice_distance_mm=5.5), volumes_ml=(12.0, 2.0)
        )
        hu, truth = scan.image.array, scan.label.array == 1
        dice = []
        for low in range(35, 70, 5):
            found = (hu >= low) & (hu <= 100)
            dice.append(
                2
                * np.count_nonzero(found & truth)
                / (np.count_nonzero(found) + np.count_nonzero(truth))
            )
        best.append(max(dice))
    assert max(best) < 0.7
    assert np.mean(best) < 0.5


def test_tissues_have_the_ct_numbers_of_a_head() -> None:
    scan = draw_head(
        0, gantry=Gantry(matrix=128, slices=30, slice_distance_mm=5.0), volumes_ml=(8.0,)
    )
    hu, truth = scan.image.array.astype(float), scan.label.array == 1
    middle = hu[32:96, 24:104, 12:24]
    brain = middle[(middle > 15) & (middle < 48) & ~truth[32:96, 24:104, 12:24]]
    assert 27 < brain.mean() < 38
    assert 50 < hu[truth].mean() < 80
    assert 700 < np.percentile(hu, 99) < 1500
    assert np.percentile(hu, 20) == pytest.approx(-1000, abs=15)
    assert np.count_nonzero(hu > 300) * scan.voxel_volume_mm3 / 1000 > 200  # mL of bone


def test_noise_alone_differs_between_matrix_sizes() -> None:
    coarse, fine = (
        draw_head(
            1,
            gantry=Gantry(matrix=n, slices=12, slice_distance_mm=12.0, noise_hu=0.0),
            volumes_ml=(20.0,),
        ).image.array.astype(float)
        for n in (48, 144)
    )
    blocks = fine.reshape(48, 3, 48, 3, 12).mean(axis=(1, 3))
    soft = (coarse > 0) & (coarse < 90)
    assert np.median(np.abs(blocks - coarse)[soft]) < 1.0
