import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hemseg_cli.app import run as run_cli
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.inputs.naming import image_stem
from hemseg_cli.inference.predict import predict
from tests.inference.small_model import config_in, make_run, scan, truth

QUIET = PredictConfig(previews=False)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _label() -> Volume:
    return Volume(truth((24, 20, 6)).astype(np.int16), np.diag([5.0, 5.0, 5.0, 1.0]))


def test_what_is_given_is_predicted_failed_or_left_out_by_name(work: Path) -> None:
    write_volume(work / "in/images/a_0000.nii.gz", scan())
    write_volume(work / "in/labels/a.nii.gz", _label())
    write_volume(work / "in/other/b.nii.gz", _label())
    (work / "in/images/zero.nii").write_bytes(b"")
    (work / "in/readme.txt").write_text("about the scans")
    shouting = work / "in/LOUD.NII.GZ"
    write_volume(work / "in/loud.nii.gz", scan(seed=1))
    (work / "in/loud.nii.gz").rename(shouting)
    image = sitk.GetImageFromArray(scan(seed=2).array.transpose(2, 1, 0))
    image.SetSpacing((5.0, 5.0, 5.0))
    for name in ("n.nrrd", "m.mha"):
        sitk.WriteImage(image, str(work / "in" / name))

    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"], out=work / "out")

    assert [row.scan for row in result.predicted] == ["LOUD", "a", "m", "n"]
    assert set(result.failures) == {"zero"}
    assert "empty (0 bytes)" in result.failures["zero"]
    left_out = {one.file.relative_to(work / "in").as_posix(): one.reason for one in result.left_out}
    assert left_out == {
        "labels/a.nii.gz": "a label map, no scan",
        "other/b.nii.gz": "a label map, no scan",
        "readme.txt": "a text file",
    }
    files = [path for path in (work / "in").rglob("*") if path.is_file()]
    assert len(files) == len(result.predicted) + len(result.failures) + len(left_out)
    assert json.dumps(result.payload())


@pytest.mark.parametrize(("kind", "code"), [("label map", 1), ("text", 2)])
def test_folder_in_which_everything_is_left_out_fails(
    kind: str, code: int, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        if kind == "text":
            (work / "in").mkdir(exist_ok=True)
            (work / f"in/{name}.txt").write_text("no scan")
        else:
            write_volume(work / f"in/{name}.nii.gz", _label())

    assert run_cli(["predict", str(work / "in"), "--out", str(work / "out")]) == code
    assert kind in capsys.readouterr().err


def test_split_of_a_project_that_was_moved_is_predicted_where_it_lies_now(work: Path) -> None:
    write_volume(work / "data/toy/test/image/s.nii.gz", scan())
    write_volume(work / "data/toy/test/label/s.nii.gz", _label())
    case = Case("s", "p", "test", 4, "test/label/s.nii.gz", image="test/image/s.nii.gz")
    write_cases(work / "data/toy/cases.csv", [case])
    (work / "runs/run/config.toml").write_text('[data]\nroot = "/nowhere"\ndataset = "toy"\n')

    # The place of the data is where this folder has it; no key of it was typed.
    config = config_in(work, predict=QUIET)
    config.data.model_fields_set.clear()
    result = predict(config)

    assert [row.scan for row in result.predicted] == ["s"]


def test_a_linked_folder_is_followed_and_two_names_of_one_file_are_two_scans(work: Path) -> None:
    write_volume(work / "blob/x.nii.gz", scan())
    (work / "in").mkdir()
    (work / "in/linked").symlink_to(work / "blob")
    (work / "in/y.nii.gz").symlink_to(work / "blob/x.nii.gz")
    result = predict(config_in(work, predict=QUIET), inputs=[work / "in"], out=work / "out")
    assert [row.scan for row in result.predicted] == ["x", "y"]


def test_a_file_name_that_is_not_utf_8_is_predicted_and_printed(work: Path) -> None:
    raw = os.fsdecode(b"caf\xe9.nii.gz")
    write_volume(work / "in/cafe.nii.gz", scan())
    (work / "in/cafe.nii.gz").rename(work / "in" / raw)
    config = config_in(work)
    result = predict(config, inputs=[work / "in"], out=work / "out")
    assert [row.scan for row in result.predicted] == ["caf\\xe9"]
    assert "caf\\xe9" in (work / "out/volumes.csv").read_text(encoding="utf-8")
    again = predict(config, inputs=[work / "in"], out=work / "out")
    assert len(again.already_done) == 1
    assert json.dumps(again.payload(), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("fault", ["resampled", "not utf-8", "not ours", "nan"])
def test_a_sidecar_that_is_not_the_images_is_not_believed(work: Path, fault: str) -> None:
    volume = scan()
    write_volume(work / "in/s.nii.gz", volume)
    stated = {
        "shape": volume.array.shape,
        "affine": volume.affine.tolist(),
        "voxel_volume_mm3": 31.25,
    }
    if fault == "resampled":
        stated["shape"] = (48, 40, 6)
        stated["affine"] = (volume.affine @ np.diag([0.5, 0.5, 1.0, 1.0])).tolist()
    if fault == "not ours":
        stated = {"Modality": "CT"}  # type: ignore[dict-item]  # another tool's
    text = json.dumps(stated).replace("31.25", "NaN" if fault == "nan" else "31.25")
    data = text.encode() if fault != "not utf-8" else b"\xff\xfe" + text.encode()
    (work / "in/s.json").write_bytes(data)

    result = predict(config_in(work, predict=QUIET), inputs=[work / "in/s.nii.gz"])
    (row,) = result.predicted
    by_hand_ml = truth(volume.array.shape).sum() * 125 / 1000
    assert row.predicted_ml == pytest.approx(by_hand_ml, rel=1e-6)
    assert any("sidecar ignored" in warning for warning in result.warnings["s"])
    assert row.review


@pytest.mark.parametrize("slices", [1, 3])
def test_too_little_of_a_head_is_flagged_for_review(work: Path, slices: int) -> None:
    write_volume(work / "in/s.nii.gz", scan((24, 20, slices)))
    (row,) = predict(config_in(work, predict=QUIET), inputs=[work / "in"]).predicted
    assert row.review
    assert f"only {slices} slice" in row.review_reason


def test_a_zip_without_a_ct_series_is_named_and_the_others_are_done(work: Path) -> None:
    write_volume(work / "in/s.nii.gz", scan())
    with zipfile.ZipFile(work / "notes.zip", "w") as archive:
        archive.writestr("a.txt", "no scan")
    (work / "broken.zip").write_bytes(b"PK\x03\x04 cut off")
    result = predict(
        config_in(work, predict=QUIET),
        inputs=[work / "in", work / "notes.zip", work / "broken.zip"],
        out=work / "out",
    )
    assert [row.scan for row in result.predicted] == ["s"]
    assert set(result.failures) == {"notes.zip", "broken"}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.nii.gz", "a"),
        ("a.NII.GZ", "a"),
        ("a_0000.nii.gz", "a"),
        ("a.b.nrrd", "a.b"),
        ("CT-7.zip", "CT-7"),
        ("0000.dcm", "0000"),
        ("IM_0001", "IM_0001"),
        (".nii", ".nii"),
    ],
)
def test_scans_are_named_after_their_files(file: str, name: str) -> None:
    assert image_stem(Path(file)) == name


def test_a_zip_and_a_folder_of_one_series_give_the_same_mask(work: Path) -> None:
    dicom_series = pytest.importorskip("tests.dicom_files")
    folder = work / "study"
    folder.mkdir()
    with zipfile.ZipFile(work / "packed.zip", "w") as archive:
        for number in range(8):
            data = dicom_series.slice_bytes(number)
            (folder / f"{number}.dcm").write_bytes(data)
            archive.writestr(f"deep/{number}.dcm", data)
    result = predict(
        config_in(work, predict=QUIET), inputs=[folder, work / "packed.zip"], out=work / "out"
    )
    assert not result.failed, result.failures
    assert [row.scan for row in result.predicted] == ["packed", "study"]
    np.testing.assert_array_equal(
        read_volume(work / "out/packed_mask.nii.gz").array,
        read_volume(work / "out/study_mask.nii.gz").array,
    )
