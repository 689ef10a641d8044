from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.measures import ScanMeasures
from hemseg_cli.inference.preview import chosen_slices, write_preview

EMPTY = ScanMeasures("scan", 0.0, None, None, 0.0, 0, 0.0, 0.0, None, 0.0, 0.0, 0.0, False, "")


def test_chosen_slices_spread_over_the_hemorrhage_and_hold_the_largest() -> None:
    mask = np.zeros((8, 8, 40), dtype=np.uint8)
    mask[:2, :2, 5:30] = 1
    mask[:6, :6, 17] = 1
    slices = chosen_slices(mask, 6)
    assert slices == sorted(set(slices))
    assert len(slices) == 6
    assert slices[0] == 5
    assert slices[-1] == 29
    assert 17 in slices


@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_chosen_slices_of_an_empty_mask_lie_in_the_middle(depth: int) -> None:
    slices = chosen_slices(np.zeros((4, 4, depth), dtype=np.uint8), 6)
    assert 1 <= len(slices) <= 6
    assert all(0 <= k < depth for k in slices)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _red(path: Path) -> np.ndarray:
    picture = _pixels(path).astype(int)
    return (picture[..., 0] > 200) & (picture[..., 1] < 120)


def test_contour_lies_where_the_lesion_is_seen_the_patients_right_on_the_left(
    tmp_path: Path,
) -> None:
    hu = np.full((64, 64, 3), 30, dtype=np.int16)
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[40:60, 28:36, 1] = 1  # canonical i = 40..60 of 64: the patient's right half
    write_preview(tmp_path / "a.png", Volume(hu, np.diag([4.0, 4.0, 5.0, 1.0])), mask, EMPTY)
    tile = _red(tmp_path / "a.png")[58 : 58 + 320, :320]
    rows, columns = np.nonzero(tile)
    assert columns.max() < 160
    assert 140 < rows.mean() < 180
    # 20 pixels of 4 mm at 320 pixels for 260 mm
    assert np.ptp(columns) == pytest.approx(20 * 4 * 320 / 260, abs=4)


def test_orientation_of_the_file_does_not_change_the_picture(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    hu = random.integers(0, 80, (32, 24, 5)).astype(np.int16)
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[4:12, 5:9, 1:4] = 1
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    write_preview(tmp_path / "ras.png", Volume(hu, affine), mask, EMPTY)
    flipped = affine @ np.array([[-1.0, 0, 0, 31], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_preview(
        tmp_path / "lps.png",
        to_canonical(Volume(hu[::-1, ::-1], flipped))[0],
        to_canonical(Volume(mask[::-1, ::-1], flipped))[0].array,
        EMPTY,
    )
    assert np.array_equal(_pixels(tmp_path / "ras.png"), _pixels(tmp_path / "lps.png"))


def test_one_slice_scan_without_hemorrhage_has_a_picture_without_contour(tmp_path: Path) -> None:
    write_preview(
        tmp_path / "a.png",
        Volume(np.zeros((8, 8, 1), dtype=np.int16), np.eye(4)),
        np.zeros((8, 8, 1), dtype=np.uint8),
        EMPTY,
    )
    assert _pixels(tmp_path / "a.png").shape == (698, 960, 3)
    assert not _red(tmp_path / "a.png").any()
