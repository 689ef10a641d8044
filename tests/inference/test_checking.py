"""Scans that are pictures, clipped to a window or outside the skull's reach: said, and flagged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.case import NO_SKULL
from hemseg_cli.inference.inputs.checking import CLIPPED, GREY_LEVELS
from hemseg_cli.inference.predict import predict
from tests.imaging.test_intracranial import MUSCLE, SKULL, draw_head
from tests.inference.small_model import config_in, make_run


def predicted(folder: Path, array: Any, affine: Any, **options: Any) -> Any:
    """Predict one scan with a network that takes 70 HU and more for blood."""
    config = config_in(folder)
    keys = {"previews": False, "min_component_ml": 0.0, **options}
    config = config.model_copy(update={"predict": config.predict.model_copy(update=keys)})
    make_run(folder)
    file = folder / "scan.nii.gz"
    write_volume(file, Volume(array, affine))
    return predict(config, inputs=[file], out=folder / "out")


@pytest.fixture
def bled() -> Any:
    """A head with blood of 70 HU in the brain and muscle of 70 HU in the neck, and which is blood.

    In voxels of 4 x 4 x 5 mm, without noise.
    """
    head = draw_head((4.0, 4.0, 5.0), noise_hu=1.0)
    array = head.volume.array.copy()
    array[abs(array - MUSCLE) < 10] = 75
    blood = np.zeros(array.shape, dtype=bool)
    blood[24:30, 28:34, 24:28] = True
    array[blood] = 75
    return Volume(array, head.volume.affine), blood


def test_what_lies_outside_the_skull_is_no_hemorrhage(tmp_path: Path, bled: Any) -> None:
    volume, blood = bled
    for wanted in (True, False):
        folder = tmp_path / str(wanted)
        folder.mkdir()
        result = predicted(folder, volume.array, volume.affine, intracranial=wanted)
        mask = read_volume(folder / "out" / "scan_mask.nii.gz").array > 0
        assert mask[blood].all()
        outside = int((mask & ~blood).sum())
        assert outside < 0.1 * blood.sum() if wanted else outside > 10 * blood.sum()
        assert NO_SKULL not in result.warnings.get("scan", [])


def test_skull_that_is_not_there_is_said_and_nothing_is_taken_out(
    tmp_path: Path, bled: Any
) -> None:
    volume, blood = bled
    array = np.where(volume.array > 150, 60, volume.array).astype(np.int16)
    array[volume.array > 0.5 * SKULL] = 60
    predicted(tmp_path, array, volume.affine)
    assert (read_volume(tmp_path / "out" / "scan_mask.nii.gz").array > 0)[blood].all()


def test_clipped_scan_is_flagged_for_review(tmp_path: Path, bled: Any) -> None:
    volume, blood = bled
    clipped = np.clip(volume.array, -20, 100)
    clipped[volume.array < -500] = -1000
    result = predicted(tmp_path, clipped, volume.affine)
    assert CLIPPED.format(ceiling=100) in result.warnings["scan"]
    (row,) = result.predicted
    assert row.review
    assert "end at 100 HU" in row.review_reason
    assert (read_volume(tmp_path / "out" / "scan_mask.nii.gz").array > 0)[blood].all()


def test_picture_of_256_grey_levels_is_flagged_for_review(tmp_path: Path, bled: Any) -> None:
    volume, _ = bled
    picture = np.clip((volume.array + 20.0) * 255 / 120, 0, 255).round().astype(np.uint8)
    result = predicted(tmp_path, picture, volume.affine)
    assert GREY_LEVELS in result.warnings["scan"]
    assert result.predicted[0].review
