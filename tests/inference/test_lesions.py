import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.lesions import abc_over_2_ml, find_lesions


def _ellipsoid(
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> NDArray[np.uint8]:
    grid = np.indices(shape)
    return (sum(((grid[n] - centre[n]) / radii[n]) ** 2 for n in range(3)) <= 1).astype(np.uint8)


def _scan(mask: NDArray[np.uint8], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.where(mask, 60, 30).astype(np.int16), np.diag([*spacing, 1.0]))


def test_abc2_of_a_box_is_its_edges_by_hand() -> None:
    mask = np.zeros((40, 30, 8), dtype=bool)
    mask[5:25, 10:20, 2:6] = True
    # A is the diagonal between edge middles, B the longest chord across it; by hand for 20 x 10
    # pixels of 1 mm: the chord through the corner of the long edge.
    corner = np.array(
        [[0.5, 0], [0, 0.5], [0, 9.5], [0.5, 10], [19.5, 10], [20, 9.5], [20, 0.5], [19.5, 0]]
    )
    a = math.hypot(20.0, 9.0)
    along, across = np.array([20.0, 9.0]) / a, np.array([-9.0, 20.0]) / a
    ends = np.stack([corner @ along, corner @ across], axis=1)
    chords = []
    for t in np.linspace(ends[:, 0].min() + 0.01, ends[:, 0].max() - 0.01, 4001):
        met = [
            p[1] + (q[1] - p[1]) * (t - p[0]) / (q[0] - p[0])
            for p, q in zip(ends, np.roll(ends, -1, axis=0), strict=True)
            if min(p[0], q[0]) <= t <= max(p[0], q[0]) and p[0] != q[0]
        ]
        chords.append(max(met) - min(met))
    expected = a * max(chords) * (4 * 5.0) / 2 / 1000
    assert max(chords) < 0.9 * np.ptp(corner @ across)  # what the projected width would give
    assert abc_over_2_ml(mask, in_plane_mm=(1.0, 1.0), slice_distance_mm=5.0) == pytest.approx(
        expected, rel=0.01
    )


def test_abc2_of_an_ellipsoid_by_hand() -> None:
    # Semi-axes 30, 20 and 25 mm: A = 60, B = 40. A slice at z has the share 1 - (z / 25)^2 of the
    # largest area: at least 75 % for |z| <= 12.5 (25 slices, whole), at least 25 % for |z| <= 21.65
    # (18 more, half), so C = 25 + 9 = 34 mm.
    mask = _ellipsoid((80, 80, 60), (40, 40, 30), (30, 20, 25))
    assert abc_over_2_ml(mask, in_plane_mm=(1.0, 1.0), slice_distance_mm=1.0) == pytest.approx(
        60 * 40 * 34 / 2 / 1000, rel=0.05
    )


def test_abc2_counts_slices_whole_half_or_not_at_all() -> None:
    mask = np.zeros((20, 20, 4), dtype=bool)
    mask[:10, :10, 0] = True  # 100 % of the largest area: whole
    mask[:10, :8, 1] = True  # 80 %: whole
    mask[:10, :5, 2] = True  # 50 %: half
    mask[:10, :2, 3] = True  # 20 %: not counted
    alone = mask.copy()
    alone[:, :, 1:] = False
    ratio = abc_over_2_ml(mask, in_plane_mm=(1.0, 1.0), slice_distance_mm=5.0) / abc_over_2_ml(
        alone, in_plane_mm=(1.0, 1.0), slice_distance_mm=5.0
    )
    assert ratio == pytest.approx(2.5)


def test_abc2_of_one_pixel_is_a_pixel() -> None:
    mask = np.zeros((3, 3, 1), dtype=bool)
    mask[1, 1, 0] = True
    assert abc_over_2_ml(mask, in_plane_mm=(2.0, 2.0), slice_distance_mm=5.0) == pytest.approx(
        2 * 2 * 5 / 2 / 1000, rel=0.5
    )


def test_abc2_and_lesions_of_nothing() -> None:
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    assert abc_over_2_ml(empty, in_plane_mm=(1.0, 1.0), slice_distance_mm=5.0) == 0.0
    assert find_lesions(empty, _scan(empty), voxel_volume_mm3=1.0) == []


def test_lesions_come_largest_first_with_volume_centroid_and_density() -> None:
    mask = np.zeros((30, 30, 10), dtype=np.uint8)
    mask[2:4, 2:4, 1] = 1  # 4 voxels
    mask[10:20, 10:15, 4:6] = 1  # 100 voxels
    scan = _scan(mask, (0.5, 0.5, 5.0))
    lesions = find_lesions(mask, scan, voxel_volume_mm3=1.25)
    assert [lesion.volume_ml for lesion in lesions] == pytest.approx([0.125, 0.005])
    assert lesions[0].centroid_mm == pytest.approx((14.5 * 0.5, 12.0 * 0.5, 4.5 * 5.0))
    assert lesions[1].centroid_mm == pytest.approx((2.5 * 0.5, 2.5 * 0.5, 5.0))
    assert [lesion.mean_hu for lesion in lesions] == [60.0, 60.0]


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    mask[3, 3, 3] = 1
    assert [
        lesion.volume_ml for lesion in find_lesions(mask, _scan(mask), voxel_volume_mm3=1000.0)
    ] == [2.0, 1.0]


def test_axis_order_and_flips_of_the_file_change_nothing() -> None:
    mask = _ellipsoid((24, 20, 12), (10, 8, 6), (7, 4, 3))
    scan = _scan(mask, (1.0, 1.0, 3.0))
    [straight] = find_lesions(mask, scan, voxel_volume_mm3=3.0)
    axes, flip = (2, 0, 1), (True, False, True)
    index = np.zeros((4, 4))
    for new, old in enumerate(axes):
        index[old, new] = -1.0 if flip[new] else 1.0
        index[old, 3] += (mask.shape[old] - 1) if flip[new] else 0
    index[3, 3] = 1
    turned = tuple(slice(None, None, -1) if f else slice(None) for f in flip)
    file_mask = np.ascontiguousarray(mask.transpose(axes)[turned])
    file_scan = np.ascontiguousarray(scan.array.transpose(axes)[turned])
    affine = scan.affine @ index
    [again] = find_lesions(
        to_canonical(Volume(file_mask, affine))[0].array,
        to_canonical(Volume(file_scan, affine))[0],
        voxel_volume_mm3=3.0,
    )
    assert again.centroid_mm == pytest.approx(straight.centroid_mm)
    assert again.abc2_ml == pytest.approx(straight.abc2_ml)


def test_lesion_on_uneven_slices_counts_each_by_its_own_length() -> None:
    mask = np.zeros((8, 8, 6), dtype=np.uint8)
    mask[2:6, 2:6, 1:5] = 1
    lengths = np.array([4.0, 4.0, 5.5, 7.0, 7.0, 7.0])
    [lesion] = find_lesions(mask, _scan(mask), voxel_volume_mm3=lengths[None, None, :])
    assert lesion.volume_ml == pytest.approx(16 * lengths[1:5].sum() / 1000)
    # ABC/2 is linear in C, the length of the slices that it lies in.
    [even] = find_lesions(mask, _scan(mask), voxel_volume_mm3=1.0)
    assert lesion.abc2_ml == pytest.approx(even.abc2_ml * lengths[1:5].mean())
