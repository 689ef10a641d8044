"""Offsets of Hounsfield units, on heads drawn by hand and on real ones where they are at hand."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.imaging.hounsfield import are_grey_levels, find_ceiling, find_hu_offset
from hemseg_cli.imaging.nifti import read_volume

OFFSETS = [0, 1024, 1000, -1024, -1000]


def head(*, brain_hu: float = 33.0, noise_hu: float = 5.0, air_hu: float = -1000.0) -> Any:
    """Brain within bone and scalp, air around, in HU."""
    generator = np.random.default_rng(7)
    radius = np.hypot(*np.mgrid[-48:48, -48:48])[:, :, None] + np.zeros(6)
    hu = np.full(radius.shape, air_hu)
    hu[radius < 42] = -80.0
    hu[radius < 40] = 1100.0
    hu[radius < 35] = brain_hu
    hu[radius < 6] = 65.0
    return np.rint(hu + generator.normal(0.0, noise_hu, hu.shape))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int32])
def test_offset_is_found_from_the_peaks_of_air_and_brain(offset: int, dtype: Any) -> None:
    assert find_hu_offset((head() + offset).astype(dtype)) == offset


@pytest.mark.parametrize("offset", [1024, 1000])
@pytest.mark.parametrize("noise", [2.0, 12.0])
def test_offset_is_found_where_unsigned_storage_has_cut_the_air(offset: int, noise: float) -> None:
    assert find_hu_offset(np.maximum(head(noise_hu=noise) + offset, 0).astype(np.uint16)) == offset


@pytest.mark.parametrize("offset", [0, 1024])
def test_padding_far_below_air_is_no_air(offset: int) -> None:
    values = head() + offset
    values[:8] = -2000
    assert find_hu_offset(values) == offset


@pytest.mark.parametrize(("fill", "expected"), [(0.0, 0), (-1000.0, 0), (-2000.0, 0)])
def test_a_brain_without_its_skull_is_left_alone(fill: float, expected: int) -> None:
    values = head()
    values[(values < -200) | (values > 200)] = fill
    assert find_hu_offset(values) == expected


def test_a_brain_without_its_skull_that_is_1024_too_high_is_recognised() -> None:
    values = head() + 1024
    brain = values[(values > 900) & (values < 1200)]
    assert find_hu_offset(brain) == 1024


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 4)),
        np.full((4, 4, 4), np.nan),
        np.zeros((0, 4, 4)),
        np.random.default_rng(0).integers(0, 256, (32, 32, 8)),
        np.linspace(0.0, 1.0, 4096).reshape(16, 16, 16),
        head() * 0.01,
        head() + 500,
    ],
    ids=["zeros", "nan", "empty", "8 bit noise", "0 to 1", "scaled", "half way"],
)
def test_what_has_no_brain_at_any_known_offset_is_none(values: Any) -> None:
    assert find_hu_offset(values) is None


def test_voxels_that_are_no_numbers_are_left_out() -> None:
    values = head().astype(np.float32) + 1000
    values[::7] = np.nan
    values[1::7] = np.inf
    assert find_hu_offset(values) == 1000


@pytest.mark.parametrize("offset", OFFSETS)
def test_real_heads(shared_data: Path, offset: int) -> None:
    files = sorted((shared_data / "phe-sich" / "image").glob("*.nii.gz"))[::17]
    if not files:
        pytest.skip("the real scans (shared/data/phe-sich) are not here")
    for file in files:
        sample = read_volume(file).array[::4, ::4].astype(np.int32)
        assert find_hu_offset(sample + offset) == offset, file.name


def unclipped() -> Any:
    """A head whose voxels at the skull are partly bone, as in every scan."""
    return np.concatenate([head().ravel(), np.arange(-1000, 1100).repeat(3)])


@pytest.mark.parametrize("ceiling", [75, 80, 100, 155, 255, 400])
def test_numbers_that_were_cut_off_are_recognised(ceiling: int) -> None:
    values = np.minimum(unclipped(), ceiling)
    assert find_ceiling(values) == ceiling
    assert find_ceiling(values.astype(np.int16)) == ceiling
    # Bone put back at a value of its own, as in shared/data/phe-sich.
    assert find_ceiling(np.concatenate([values, np.full(20_000, 700)])) == ceiling


@pytest.mark.parametrize("ceiling", [60, 401, 1000, 3000])
def test_scans_and_brains_without_a_skull_are_not_clipped(ceiling: int) -> None:
    assert find_ceiling(np.minimum(unclipped(), ceiling)) is None
    brain = np.random.default_rng(1).normal(35, 12, 100_000)
    assert find_ceiling(brain) is None
    assert find_ceiling(np.zeros(0)) is None
    assert find_ceiling(np.full(5000, np.nan)) is None


def test_pictures_are_told_from_scans() -> None:
    picture = np.clip((head() + 20) * 255 / 120, 0, 255).round()
    assert are_grey_levels(picture)
    assert are_grey_levels(picture.astype(np.uint8))
    for values in (head(), picture / 255, picture - 1, picture * 2, picture + 0.5, np.zeros(9)):
        assert not are_grey_levels(values)


def test_real_scans_of_a_brain_window_end_where_their_table_says(shared_data: Path) -> None:
    table = shared_data / "phe-sich" / "table.csv"
    if not table.is_file():
        pytest.skip("the real scans (shared/data/phe-sich) are not here")
    with table.open(encoding="utf-8", newline="") as file:
        for row in list(csv.DictReader(file))[::12]:
            values = read_volume(table.parent / row["image"]).array
            assert find_ceiling(values) == int(row["window_high_hu"]), row["image"]
