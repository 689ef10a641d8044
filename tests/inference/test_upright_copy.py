"""`predict --upright`: a pair of files whose header states the true volume."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hemseg_cli.app import run
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.classes import PREDEFINED
from hemseg_cli.imaging.geometry import true_steps_mm
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.imaging.orientation import UNCHANGED
from hemseg_cli.imaging.sidecar import matrix_rows
from hemseg_cli.inference.formats import Algorithm, CaseOutput
from hemseg_cli.inference.inputs.finding import path_inputs
from hemseg_cli.inference.inputs.reading import Scan
from hemseg_cli.inference.predict import predict
from hemseg_cli.inference.upright_copy import write_upright
from tests.inference.small_model import config_in, make_run, scan
from tests.inference.sphere_series import SPHERE_ML, TWO_PART_MM, draw_series
from tests.sidecars import sidecar_of

UPRIGHT = PredictConfig(previews=False, upright=True)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown_ml(file: Path) -> float:
    """What a viewer shows: voxels times the spacing of the header, as ITK reads it."""
    mask = sitk.ReadImage(str(file))
    voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))
    return voxels * math.prod(mask.GetSpacing()) / 1000


@pytest.mark.parametrize("tilt_deg", [0.0, 18.5, -25.0])
@pytest.mark.parametrize("two_part", [False, True])
def test_upright_mask_of_a_series_shows_the_true_volume_at_the_true_place(
    work: Path, tilt_deg: float, two_part: bool
) -> None:
    places = TWO_PART_MM if two_part else np.arange(25) * 4.0
    draw_series(work / "study", places, centre_mm=50.0, tilt_deg=tilt_deg)
    (row,) = predict(
        config_in(work, predict=UPRIGHT), inputs=[work / "study"], out=work / "out"
    ).predicted
    file = work / "out/upright/study_upright_mask.nii.gz"
    assert shown_ml(file) == pytest.approx(row.predicted_ml, rel=1e-3)
    assert shown_ml(file) == pytest.approx(SPHERE_ML, rel=0.02)
    if tilt_deg or two_part:
        assert shown_ml(work / "out/study_mask.nii.gz") == pytest.approx(row.viewer_ml, rel=1e-5)
        assert abs(row.viewer_ml / row.predicted_ml - 1) > 0.03

    # Right angles along the table, and the sphere where it was drawn (LPS mm).
    mask = sitk.ReadImage(str(file))
    np.testing.assert_allclose(np.abs(mask.GetDirection()), np.eye(3).ravel(), atol=1e-6)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.Cast(mask, sitk.sitkUInt8))
    tilt = math.radians(tilt_deg)
    centre = np.array([-8.5, -30.0 + 31.5 * math.cos(tilt), 10.0 - 31.5 * math.sin(tilt)])
    centre[2] += 50.0 / math.cos(tilt)
    np.testing.assert_allclose(statistics.GetCentroid(1), centre, atol=1.5)

    # The scan beside it lies on the same grid, bright where the mask is.
    image = sitk.ReadImage(str(work / "out/upright/study_upright.nii.gz"))
    assert image.GetSize() == mask.GetSize()
    hu = sitk.GetArrayViewFromImage(image)
    inside = sitk.GetArrayViewFromImage(mask).astype(bool)
    assert hu[inside].mean() > 70
    assert hu[inside].min() >= 40


def test_option_writes_the_pair_once_and_a_folder_with_it_holds_no_new_scan(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(work / "in/a.nii.gz", scan())
    command = ["predict", "in", "--out", "out", "--quiet", "--device", "cpu"]
    assert run(command) == 0
    assert not (work / "out/upright").exists()
    assert run([*command, "--upright"]) == 0
    assert {file.name for file in (work / "out/upright").iterdir()} == {
        "a_upright.nii.gz",
        "a_upright_mask.nii.gz",
    }
    pair = read_volume(work / "out/upright/a_upright.nii.gz")
    np.testing.assert_array_equal(pair.array, scan().array)
    capsys.readouterr()

    found = path_inputs([work / "out", work / "in"])
    assert [source.name for source in found.sources if not source.problem] == ["a"]


def test_image_with_a_sidecar_is_set_upright_by_its_true_affine(work: Path) -> None:
    c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
    affine = np.array(
        [[0.5, 0, 0, 0], [0, 0.5 * c, -5 * s, 0], [0, 0.5 * s, 5 * c, 0], [0, 0, 0, 1]]
    )
    volume = scan(affine=affine)
    write_volume(work / "in/t.nii.gz", volume)
    true = affine.copy()
    true[:3, :3] = true_steps_mm(affine, -20.0)
    sidecar = replace(
        sidecar_of(volume, voxel_volume_mm3=abs(float(np.linalg.det(true[:3, :3])))),
        true_affine=matrix_rows(true),
    )
    (work / "in/t.json").write_text(json.dumps(sidecar.to_dict()))
    (row,) = predict(
        config_in(work, predict=UPRIGHT), inputs=[work / "in"], out=work / "out"
    ).predicted
    assert row.viewer_ml == pytest.approx(row.predicted_ml / c, rel=1e-4)
    file = work / "out/upright/t_upright_mask.nii.gz"
    voxel_ml = math.prod(sitk.ReadImage(str(file)).GetSpacing()) / 1000
    assert shown_ml(file) == pytest.approx(row.predicted_ml, abs=voxel_ml)
    (line,) = csv.DictReader((work / "out/volumes.csv").read_text().splitlines())
    assert float(line["viewer_ml"]) > float(line["predicted_ml"])


def test_every_class_keeps_its_volume(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    true = affine.copy()
    true[1, 2] = 1.8
    mask = np.zeros((30, 30, 10), dtype=np.uint8)
    mask[4:12, 4:12, 2:6] = 1
    mask[15:25, 10:20, 4:8] = 3
    volume = Volume(np.full(mask.shape, 40, dtype=np.int16), affine)
    classes = tuple(one for one in PREDEFINED if one.value in (1, 2, 3))
    output = CaseOutput(
        "s",
        Scan(volume, UNCHANGED, affine, 5.0, true_affine=true),
        mask,
        None,  # type: ignore[arg-type]  # no probability is written
        None,  # type: ignore[arg-type]  # nor a measure
        Algorithm("m", "1", "h"),
        classes,
    )
    write_upright(tmp_path / "i.nii.gz", tmp_path / "m.nii.gz", output)
    upright = read_volume(tmp_path / "m.nii.gz")
    voxel_mm3 = abs(np.linalg.det(upright.affine[:3, :3]))
    for value in (1, 2, 3):
        by_hand_mm3 = np.count_nonzero(mask == value) * 5.0
        found_mm3 = np.count_nonzero(upright.array == value) * voxel_mm3
        assert found_mm3 == pytest.approx(by_hand_mm3, abs=voxel_mm3)
