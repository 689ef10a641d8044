"""Series as scanners make them, in two parts and tilted: from DICOM to the mask on its own slices.

The sphere is drawn in the patient's own millimetres, so that its volume is known by hand.
"""

import csv
import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.imaging.uneven import UnevenSlices
from hemseg_cli.inference.masks import mask_of
from hemseg_cli.inference.predict import predict
from hemseg_cli.inference.predict_result import PredictResult
from hemseg_cli.inference.settings import Settings
from hemseg_cli.inference.subgrid import Probability
from tests.dicom_files import slice_bytes
from tests.inference.small_model import config_in, make_run
from tests.inference.sphere_series import (
    PIXEL_MM,
    RADIUS_MM,
    SIZE,
    SPHERE_ML,
    TWO_PART_MM,
    draw_series,
)

QUIET = PredictConfig(previews=False)
needs_highdicom = pytest.mark.skipif(
    importlib.util.find_spec("highdicom") is None, reason="extra dicom is not installed"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom"
)  # identifiers as RSNA's are no valid UIDs


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _predict(work: Path, form: str = "nifti") -> PredictResult:
    config = config_in(work, predict=PredictConfig(previews=False, format=form))
    return predict(config, inputs=[work / "study"], out=work / "out")


@pytest.mark.parametrize("centre_mm", [26.0, 54.0, 60.0, 100.0])
@pytest.mark.parametrize("seen_from_below", [True, False])
def test_sphere_of_a_two_part_series_is_measured_by_hand(
    work: Path, centre_mm: float, seen_from_below: bool
) -> None:
    draw_series(work / "study", TWO_PART_MM, centre_mm=centre_mm, seen_from_below=seen_from_below)
    result = _predict(work)
    assert result.failures == {}
    (row,) = result.predicted
    assert row.predicted_ml == pytest.approx(SPHERE_ML, rel=0.02)
    # C of a ball by Kothari's rule is 0.683 of its diameter: ABC/2 = 4 x 0.683 r^3.
    assert row.abc2_ml == pytest.approx(0.652 * SPHERE_ML, rel=0.1)

    mask = nib.load(work / "out/study_mask.nii.gz")
    assert mask.shape == (SIZE, SIZE, len(TWO_PART_MM))
    by_header_ml = np.count_nonzero(mask.dataobj) * np.prod(mask.header.get_zooms()) / 1000
    assert row.viewer_ml == pytest.approx(by_header_ml, rel=1e-5)
    (line,) = csv.DictReader((work / "out/volumes.csv").read_text().splitlines())
    assert float(line["viewer_ml"]) == pytest.approx(row.viewer_ml, abs=1e-6)

    # It is an ordinary protocol: said, but no reason for a person to look.
    assert any(
        "uneven slice steps (1.08, 4.00, 7.00 mm)" in one for one in result.warnings["study"]
    )
    assert "uneven" not in row.review_reason


@pytest.mark.parametrize("tilt_deg", [18.5, -25.0])
@pytest.mark.parametrize("two_part", [False, True])
def test_sphere_of_a_tilted_series_is_measured_by_hand(
    work: Path, tilt_deg: float, two_part: bool
) -> None:
    places = TWO_PART_MM if two_part else np.arange(25) * 4.0
    files = draw_series(work / "study", places, centre_mm=48.0, tilt_deg=tilt_deg)
    (row,) = _predict(work).predicted
    assert row.predicted_ml == pytest.approx(SPHERE_ML, rel=0.02)

    # A viewer takes the way along the table for the slices' distance.
    mask = sitk.ReadImage(str(work / "out/study_mask.nii.gz"))
    voxels = int(sitk.GetArrayViewFromImage(mask).astype(bool).sum())
    assert row.viewer_ml == pytest.approx(voxels * np.prod(mask.GetSpacing()) / 1000, rel=1e-5)
    if not two_part:
        assert row.viewer_ml / row.predicted_ml == pytest.approx(
            1 / math.cos(math.radians(tilt_deg)), rel=1e-4
        )
    assert mask.GetSize()[2] == len(files)


@needs_highdicom
@pytest.mark.parametrize(("tilt_deg", "seen_from_below"), [(0.0, True), (0.0, False), (18.5, True)])
def test_seg_of_a_two_part_series_reads_back_on_its_own_slices(
    work: Path, tilt_deg: float, seen_from_below: bool
) -> None:
    from tests.dicom_series import read_seg

    draw_series(
        work / "study",
        TWO_PART_MM,
        centre_mm=60.0,
        tilt_deg=tilt_deg,
        seen_from_below=seen_from_below,
    )
    assert not _predict(work, "nifti,dicom-seg").failed
    mask, names, positions = read_seg(work / "out/study_mask.dcm")
    own = read_volume(work / "out/study_mask.nii.gz").array
    assert own.any()
    np.testing.assert_array_equal(mask, own)
    assert len(set(names)) == len(TWO_PART_MM)
    along = np.linalg.norm(positions - positions[0], axis=1) * math.cos(math.radians(tilt_deg))
    np.testing.assert_allclose(along, TWO_PART_MM, atol=1e-3)


def test_mask_takes_the_slice_that_is_nearest_in_mm(work: Path) -> None:
    """Each slice's mask is its own section of the sphere, in the fine and in the coarse part."""
    draw_series(work / "study", TWO_PART_MM, centre_mm=55.0)
    _predict(work)
    own = read_volume(work / "out/study_mask.nii.gz").array
    sections = np.count_nonzero(own, axis=(0, 1)) * PIXEL_MM**2
    squares = np.maximum(RADIUS_MM**2 - (TWO_PART_MM - 55.0) ** 2, 0)
    np.testing.assert_allclose(sections, math.pi * squares, atol=0.06 * math.pi * RADIUS_MM**2)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        (np.delete(np.arange(20) * 5.0, 7), "1 missing"),
        (np.delete(TWO_PART_MM, 20), "1 missing (step 14.00 mm, the others 7.00 mm)"),
        (np.delete(TWO_PART_MM, [20, 21]), "2 missing (step 21.00 mm, the others 7.00 mm)"),
        (np.delete(TWO_PART_MM, [18, 20]), "1 missing (step 14.00 mm, the others 7.00 mm)"),
        (np.delete(TWO_PART_MM, [5, 6]), "2 missing (step 12.00 mm, the others 4.00 mm)"),
        (np.insert(TWO_PART_MM, 5, TWO_PART_MM[5]), "two different slices at one position"),
    ],
)
def test_what_is_broken_is_refused(work: Path, places: NDArray[np.float64], reason: str) -> None:
    files = draw_series(work / "study", places, centre_mm=50.0)
    if "one position" in reason:
        files[5].write_bytes(
            slice_bytes(
                99,
                hu=np.full((SIZE, SIZE), 50, dtype=np.int16),
                position=(-40.0, -30.0, 10.0 + TWO_PART_MM[5]),
                ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
                PixelSpacing=[str(PIXEL_MM)] * 2,
            )
        )
    result = _predict(work)
    assert reason in result.failures["study"]


@pytest.mark.parametrize("axis", [0, 2])
def test_probability_on_a_part_comes_back_to_the_slices_nearest_to_it(axis: int) -> None:
    uneven = UnevenSlices(axis, np.array([0.0, 2.0, 4.0, 6.0, 13.0, 20.0, 27.0]), 14)
    shape = [3, 4, 3]
    shape[axis] = 14
    part = [(1, 3), (0, 4), (0, 2)]
    part[axis] = (2, 9)
    values = np.arange(7, dtype=np.float32).reshape([7 if n == axis else 1 for n in range(3)])
    values = np.broadcast_to(values, [stop - start for start, stop in part])
    given = Probability(values, (part[0], part[1], part[2]), (shape[0], shape[1], shape[2]))

    # Even slices lie at 27/13 mm: of the part, 2 to 8, the nearest are 2, 3 and 6.
    own = given.on_own_slices(uneven)
    assert own.part[axis] == (2, 5)
    assert own.shape[axis] == 7
    np.testing.assert_array_equal(np.moveaxis(own.values, axis, 2)[0, 0], [0, 1, 4])
    assert own.part[1] == part[1]

    several = replace(given, values=np.stack([values, values + 1]))
    np.testing.assert_array_equal(several.on_own_slices(uneven).values[1], own.values + 1)


def test_small_components_on_uneven_slices_are_measured_by_their_own_length() -> None:
    values = np.zeros((4, 4, 4), dtype=np.float32)
    values[0, 0, 0] = values[3, 3, 3] = 1.0
    whole = Probability(values, ((0, 4), (0, 4), (0, 4)), (4, 4, 4))
    lengths = np.array([4.0, 4.0, 7.0, 10.0])[None, None, :]
    settings = Settings(threshold=0.5, min_component_ml=0.005)
    mask = mask_of(whole, settings, lengths)
    assert np.argwhere(mask).tolist() == [[3, 3, 3]]
