"""Labels in the ways that tools store them, as whole numbers."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.imaging.label_values import read_label, whole_labels
from hemseg_cli.imaging.nifti import Volume, write_volume

MASK = np.indices((6, 5, 4)).sum(axis=0) % 3 == 0


@pytest.mark.parametrize("slope", [1 / 255, 1 / 2, 1 / 1000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_scale_factor_is_taken_back_to_whole_labels(
    tmp_path: Path, slope: float, suffix: str
) -> None:
    stored = (MASK * round(1 / slope)).astype(np.int16)
    write_volume(tmp_path / f"m{suffix}", Volume(stored, np.eye(4)), slope=slope)
    found = read_label(tmp_path / f"m{suffix}").array
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, MASK)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("error", [-4e-4, 1e-7, 9e-4])
def test_floats_near_whole_numbers_are_those_and_never_cut_to_zero(
    tmp_path: Path, dtype: Any, error: float
) -> None:
    array = np.where(MASK, 1 + error, 0).astype(dtype)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "m.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "m.nii").array, MASK)


@pytest.mark.parametrize("value", [0.5, 1.01, np.nan, np.inf, -1.0, 1e9])
def test_what_is_no_label_stays_for_its_reader_to_refuse(value: float) -> None:
    array = np.where(MASK, value, 0.0)
    np.testing.assert_array_equal(whole_labels(array), array)


def test_several_classes_and_integers_keep_their_values() -> None:
    classes = np.arange(300).reshape(6, 10, 5)
    np.testing.assert_array_equal(whole_labels(classes.astype(np.float32)), classes)
    assert whole_labels(classes) is classes
    assert whole_labels(np.zeros((0, 3, 3))).dtype == np.uint8
