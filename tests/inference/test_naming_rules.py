"""Names of DICOM series by `--name-by`, and the key that series names are made with."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from hemseg_cli.app import run
from hemseg_cli.core.names_key import keyed_name, names_key
from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.inputs.finding import path_inputs
from tests.dicom_files import head
from tests.inference.small_model import make_run, scan


def _series(folder: Path, **elements: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in head(6, **elements).items():
        (folder / f"{elements['SeriesInstanceUID']}-{name}.dcm").write_bytes(data)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three series of two patients, one of them twice, and a NIfTI file."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    ann = {"PatientID": "ANN/1 x", "AccessionNumber": "A.1"}
    _series(tmp_path / "in/Smith_Ann", SeriesInstanceUID="1.2.1", SeriesNumber="2", **ann)
    _series(tmp_path / "in/Smith_Ann", SeriesInstanceUID="1.2.2", SeriesNumber="3", **ann)
    _series(
        tmp_path / "in/Jones_Bob",
        SeriesInstanceUID="1.2.3",
        SeriesNumber="4",
        PatientID="BOB",
        AccessionNumber="",
    )
    write_volume(tmp_path / "in/nifti_0000.nii.gz", scan())
    return tmp_path


def _names(folder: Path) -> list[str]:
    with (folder / "volumes.csv").open(newline="") as file:
        return [row["scan"] for row in csv.DictReader(file)]


def _predict(*options: str) -> int:
    return run(["predict", "in", "--out", "out", "--set", "predict.previews=false", *options])


def test_names_after_patients_have_the_series_only_where_they_share(work: Path) -> None:
    assert _predict("--name-by", "patient", "--keep-identity") == 0
    first, second, bob, nifti = _names(work / "out")
    assert first.startswith("ANN-1-x_series-002-")
    assert second.startswith("ANN-1-x_series-003-")
    assert (bob, nifti) == ("BOB", "nifti")


def test_series_without_accession_number_has_the_name_of_its_series(work: Path) -> None:
    assert _predict("--name-by", "accession", "--keep-identity") == 0
    names = _names(work / "out")
    begins = ["A.1_series-002-", "A.1_series-003-", "nifti", "series-004-"]
    assert len(names) == len(begins)
    assert all(name.startswith(begin) for name, begin in zip(names, begins, strict=True))


def test_names_by_series_say_nothing_of_folders_or_patients(work: Path) -> None:
    assert _predict("--name-by", "series") == 0
    names = _names(work / "out")
    assert [name.rpartition("-")[0] for name in names[1:]] == [
        "series-002",
        "series-003",
        "series-004",
    ]
    assert not any(word in " ".join(names) for word in ("Smith", "Jones", "ANN", "BOB", "A.1"))


@pytest.mark.parametrize("rule", ["patient", "accession"])
def test_names_that_tell_of_the_patient_need_leave(
    work: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict("--name-by", rule) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--name-by {rule} puts the patient into file names" in said
    assert f"--name-by {rule} --keep-identity" in said
    assert not (work / "out").exists()


def test_unknown_rule_is_a_usage_error_that_names_the_rules(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict("--name-by", "study") == 2
    assert "'folder', 'patient', 'accession' or 'series'" in capsys.readouterr().err


def test_one_file_given_by_its_name_is_named_by_the_rule(work: Path) -> None:
    file = next((work / "in/Jones_Bob").iterdir())
    (by_patient,) = path_inputs([file], name_by="patient").sources
    assert by_patient.name == "BOB"
    (by_series,) = path_inputs([file], name_by="series").sources
    assert by_series.name.startswith("series-")
    assert file.stem not in by_series.name
    (by_folder,) = path_inputs([file]).sources
    assert by_folder.name == file.stem


@pytest.mark.parametrize("hostile", ["../../etc", "..", ".hidden", "a\\b:c", "x" * 64, "山田"])
def test_hostile_patient_ids_name_files_in_the_output_folder(work: Path, hostile: str) -> None:
    shutil.rmtree(work / "in")
    _series(
        work / "in/a",
        SeriesInstanceUID="1.2.9",
        PatientID=hostile.replace("\\", "/"),
        SpecificCharacterSet="ISO_IR 192",
    )
    (source,) = path_inputs([work / "in"], name_by="patient").sources
    assert source.name == Path(source.name).name
    assert not source.name.startswith(".")
    assert 0 < len(source.name) <= 64


def test_two_ids_that_give_one_name_are_two_scans(work: Path) -> None:
    _series(work / "in/other", SeriesInstanceUID="1.2.4", SeriesNumber="5", PatientID="ANN-1 x")
    sources = path_inputs([work / "in"], name_by="patient").sources
    names = [source.name for source in sources]
    assert len(set(names)) == len(names) == 5


def test_key_of_a_folder_is_made_once_and_moves_with_it(work: Path) -> None:
    assert _predict() == 0
    first = _names(work / "out")
    shutil.move(work / "out", work / "moved")
    assert run(["predict", "in", "--out", "moved", "--set", "predict.previews=false"]) == 0
    assert _names(work / "moved") == first

    # Another folder has another key, and other names of the series that share a folder.
    assert _predict() == 0
    second = _names(work / "out")
    assert [name.rpartition("-")[0] for name in second] == [
        name.rpartition("-")[0] for name in first
    ]
    assert len(set(first) & set(second)) == 2  # Jones_Bob, and the NIfTI file
    key = work / "out/.cases/.names-key"
    assert key.stat().st_mode & 0o077 == 0


def test_names_are_the_hmac_of_the_standard_library(tmp_path: Path) -> None:
    import hashlib
    import hmac

    key = names_key(tmp_path)
    assert key == names_key(tmp_path)
    expected = hmac.new(key.encode(), b"series-001-abc", hashlib.sha256).hexdigest()[:10]
    assert keyed_name("series-001-abc", key) == f"series-001-{expected}"


def test_damaged_key_is_named_with_the_way_out(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict() == 0
    (work / "out/.cases/.names-key").write_text("x")
    assert _predict() == 1
    said = capsys.readouterr().err
    assert ".names-key is not the key of series names" in said.replace("\n", "")
    assert "rm " in said


def test_convert_names_series_with_the_key_of_its_folder(work: Path) -> None:
    command = ["convert", "--layout", "series", "--dicom", "in", "--set", "convert.out=a"]
    assert run(command) == 0
    names = sorted(file.name for file in Path("a").glob("*.nii.gz"))
    assert [name[:11] for name in names] == ["series-002-", "series-003-", "series-004-"]
    assert run([*command, "--dry-run"]) == 0
    assert run(command) == 0
    assert sorted(file.name for file in Path("a").glob("*.nii.gz")) == names
    assert run([*command[:-1], "convert.out=b"]) == 0
    assert not {file.name for file in Path("b").glob("*.nii.gz")} & set(names)
