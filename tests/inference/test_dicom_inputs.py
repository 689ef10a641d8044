"""DICOM folders as `predict` takes them: by series, with the checks of `convert`."""

import importlib.util
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hemseg_cli.app import run
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core import console
from hemseg_cli.dataset.phantom.dataset import PhantomScan, make_phantom
from hemseg_cli.imaging.nifti import read_volume, write_volume
from hemseg_cli.inference.predict import predict
from tests.dicom_files import head, head_pixels, slice_bytes
from tests.inference.small_model import config_in, make_run, scan

QUIET = PredictConfig(previews=False)
SEG = PredictConfig(previews=False, format="dicom-seg")
needs_highdicom = pytest.mark.skipif(
    importlib.util.find_spec("highdicom") is None, reason="extra dicom is not installed"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom"
)  # the phantom's ID_... identifiers, read by highdicom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomScan]]:
    """The folder of all slices, and the scans, tilted ones first."""
    folder = tmp_path_factory.mktemp("phantom")
    scans = make_phantom(folder, seed=3, patients=4, matrix=32, slices=(5, 8), smallest_ml=3.0)
    return folder / "stage_2_train", sorted(scans, key=lambda one: -abs(one.tilt_deg))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _copy(phantom: tuple[Path, list[PhantomScan]], number: int, *folders: Path) -> list[Path]:
    """The slices of a scan, bottom to top, dealt out over the folders."""
    source, scans = phantom
    written = []
    for n, name in enumerate(scans[number].slices):
        folder = folders[n % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        written.append(Path(shutil.copy(source / f"ID_{name}.dcm", folder)))
    return written


def _beside(folder: Path) -> None:
    """What a scanner or an archive puts beside the slices."""
    other = {"SeriesInstanceUID": "1.2.3.4"}
    (folder / "scout.dcm").write_bytes(
        slice_bytes(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **other)
    )
    (folder / "report.dcm").write_bytes(
        slice_bytes(1, Modality="SR", Rows=None, Columns=None, **other)
    )
    (folder / "object.dcm").write_bytes(slice_bytes(2, Rows=None, Columns=None, **other))
    (folder / "notes.txt").write_text("not DICOM")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.dcm").write_bytes(slice_bytes(3, **other))


def test_localizer_and_objects_beside_the_slices_are_left_out_with_a_note(
    phantom: tuple[Path, list[PhantomScan]], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    files = _copy(phantom, 0, work / "study")
    _beside(work / "study")
    result = predict(config_in(work, predict=QUIET), inputs=[Path("study")], out=work / "out")
    assert (result.failures, [row.scan for row in result.predicted]) == ({}, ["study"])
    assert {(one.file.name, one.reason) for one in result.left_out} == {
        (".hidden", "hidden (its name begins with a dot)"),
        ("notes.txt", "a text file"),
        ("scout.dcm", "a localizer"),
        ("report.dcm", "modality SR, not CT"),
        ("object.dcm", "not an image"),
    }
    assert "left out, a localizer: study/scout.dcm" in capsys.readouterr().err
    assert not any("localizer" in warning for warning in result.warnings.get("study", []))
    mask, itk = (
        sitk.ReadImage(str(work / "out/study_mask.nii.gz")),
        sitk.ReadImage([str(file) for file in files]),
    )
    assert mask.GetSize() == itk.GetSize()
    for ours, theirs in (
        (mask.GetSpacing(), itk.GetSpacing()),
        (mask.GetOrigin(), itk.GetOrigin()),
        (mask.GetDirection(), itk.GetDirection()),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    again = predict(config_in(work, predict=QUIET), inputs=[work / "study"], out=work / "out")
    assert (again.predicted, again.already_done) == ([], ["study"])


def test_each_series_of_a_folder_is_a_scan_of_its_own(
    phantom: tuple[Path, list[PhantomScan]], work: Path
) -> None:
    config = config_in(work, predict=QUIET)
    for number in range(2):
        _copy(phantom, number, work / "both")
        _copy(phantom, number, work / f"alone{number}")
    result = predict(config, inputs=[work / "both"], out=work / "out")
    names = [row.scan for row in result.predicted]
    assert len(names) == 2
    assert all(name.startswith("both_series-") for name in names)
    predict(config, inputs=[work / "alone0", work / "alone1"], out=work / "out")
    together = {read_volume(work / f"out/{name}_mask.nii.gz").array.tobytes() for name in names}
    assert together == {
        read_volume(work / f"out/alone{number}_mask.nii.gz").array.tobytes() for number in range(2)
    }
    assert {row.predicted_ml for row in result.predicted} != {0.0}


def test_series_dealt_over_folders_is_one_scan_and_named_twice_it_is_done_once(
    phantom: tuple[Path, list[PhantomScan]], work: Path
) -> None:
    _copy(phantom, 0, work / "study/a", work / "study/b")
    _copy(phantom, 1, work / "study/c")
    write_volume(work / "study/n.nii.gz", scan())
    result = predict(
        config_in(work, predict=QUIET), inputs=[work / "study", work / "study/c"], out=work / "out"
    )
    assert sorted(row.scan for row in result.predicted) == ["c", "n", "study"]
    assert read_volume(work / "out/study_mask.nii.gz").array.shape[2] == len(phantom[1][0].slices)


def test_what_convert_refuses_is_refused_and_the_others_are_done(
    phantom: tuple[Path, list[PhantomScan]], work: Path
) -> None:
    _copy(phantom, 0, work / "good")
    _copy(phantom, 1, work / "gap")[2].unlink()
    (work / "lost").mkdir()
    for name, data in head(5).items():
        (work / "lost" / f"{name}.dcm").write_bytes(data)
    (work / "lost" / "empty.dcm").write_bytes(b"")
    (work / "magnet").mkdir()
    (work / "magnet" / "x.dcm").write_bytes(slice_bytes(0, Modality="MR"))
    folders = [work / name for name in ("good", "gap", "lost", "magnet")]
    result = predict(config_in(work, predict=QUIET), inputs=folders, out=work / "out")
    assert [row.scan for row in result.predicted] == ["good"]
    errors = result.failures
    assert set(errors) == {"gap", "lost", "magnet"}
    assert "1 missing" in errors["gap"]
    assert "the file is empty (0 bytes): empty.dcm" in errors["lost"]
    assert "or a CT series (modality MR, not CT)" in errors["magnet"]


def test_padding_is_said_and_is_no_reason_to_look(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "ct").mkdir()
    for number in range(12):
        hu = head_pixels(number)
        hu[:2, :2] = -3024
        file = work / f"ct/{number}.dcm"
        file.write_bytes(slice_bytes(number, hu=hu, PixelPaddingValue=-2000))
    result = predict(config_in(work, predict=QUIET), inputs=[work / "ct"], out=work / "out")
    assert "padding set to air: 12 of 12 slices" in capsys.readouterr().err
    assert "padding" not in result.predicted[0].review_reason


@needs_highdicom
def test_dicom_seg_of_a_tilted_series_among_others_refers_to_its_own_slices(
    phantom: tuple[Path, list[PhantomScan]], work: Path
) -> None:
    from hemseg_cli.imaging.dicom.derived import valid_uid
    from tests.dicom_series import read_seg

    for number in range(2):
        _copy(phantom, number, work / "study")
    _beside(work / "study")
    result = predict(config_in(work, predict=SEG), inputs=[work / "study"], out=work / "out")
    assert not result.failed
    referred = set()
    for row in result.predicted:
        mask, names, _ = read_seg(work / f"out/{row.scan}_mask.dcm")
        np.testing.assert_array_equal(mask, read_volume(work / f"out/{row.scan}_mask.nii.gz").array)
        referred.add(tuple(names))
    assert referred == {
        tuple(valid_uid(f"ID_{name}") for name in one.slices) for one in phantom[1][:2]
    }


@needs_highdicom
def test_real_tilted_two_part_scan_goes_from_zip_to_mask_on_its_own_slices(
    shared_data: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pydicom import dcmread

    from hemseg_cli.imaging.dicom.derived import valid_uid
    from tests.dicom_series import read_seg

    place = shared_data / "head-ct-ge.zip"
    command = ["predict", str(place), "--out", "out", "--json", "--quiet", "--device", "cpu"]
    assert run([*command, "--format", "dicom-sr,dicom-pdf"]) == 0
    answer = json.loads(capsys.readouterr().out)
    console.configure()
    (row,) = answer["predicted"]
    assert row["predicted_ml"] > 0

    with zipfile.ZipFile(place) as archive:
        archive.extractall(work / "ct")
    headers = [dcmread(file, stop_before_pixels=True) for file in work.glob("ct/**/*.dcm")]
    headers.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    mask = read_volume(work / f"out/{row['scan']}_mask.nii.gz").array
    assert mask.shape == (512, 512, len(headers))

    # By hand: half the way along the normal to each neighbour, times the pixels of each slice.
    positions = np.array([one.ImagePositionPatient for one in headers], dtype=float)
    cosines = np.array(headers[0].ImageOrientationPatient, dtype=float)
    along = positions @ np.cross(cosines[:3], cosines[3:])
    edges = np.concatenate([[along[0]], (along[:-1] + along[1:]) / 2, [along[-1]]])
    lengths = np.diff(edges)
    lengths[[0, -1]] *= 2
    area_mm2 = float(np.prod(np.array(headers[0].PixelSpacing, dtype=float)))
    by_hand_ml = float(np.count_nonzero(mask, axis=(0, 1)) @ lengths) * area_mm2 / 1000
    assert row["predicted_ml"] == pytest.approx(by_hand_ml, rel=1e-3)
    assert row["viewer_ml"] > row["predicted_ml"]

    seg, names, places = read_seg(work / f"out/{row['scan']}_mask.dcm")
    np.testing.assert_array_equal(seg, mask)
    assert names == [valid_uid(one.SOPInstanceUID) for one in headers]
    np.testing.assert_allclose(places, positions, atol=1e-3)

    # One command, three objects of the same study, all as the standard has them.
    for suffix in ("mask", "sr", "pdf"):
        file = work / f"out/{row['scan']}_{suffix}.dcm"
        assert dcmread(file).StudyInstanceUID == headers[0].StudyInstanceUID
        if shutil.which("dciodvfy") is not None:
            answer = subprocess.run(
                ["dciodvfy", str(file)], capture_output=True, text=True, check=False
            )
            assert [line for line in answer.stderr.splitlines() if line.startswith("Error")] == []
