"""What counts as a study that has arrived whole, by a clock that the test moves."""

import os
import shutil
from pathlib import Path

import pytest

from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.inputs.arriving import Arrivals, Study
from tests.dicom_files import slice_bytes
from tests.inference.small_model import scan


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    """Of an empty watched folder, with an output folder in it."""
    (tmp_path / "in/out").mkdir(parents=True)
    return Arrivals([tmp_path / "in"], 10.0, tmp_path / "in/out")


def _add(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.dcm").write_bytes(slice_bytes(number))


def test_study_is_given_once_it_has_not_changed_for_a_while(arrivals: Arrivals) -> None:
    study = arrivals.folders[0] / "study"
    _add(study, 0)
    assert arrivals.look(0.0) == []
    _add(study, 1)
    assert arrivals.look(9.0) == []
    assert arrivals.look(18.9) == []
    assert arrivals.look(19.0) == [Study(study)]
    assert arrivals.look(100.0) == []


def test_file_that_only_grows_or_only_changes_its_time_is_still_being_copied(
    arrivals: Arrivals,
) -> None:
    file = arrivals.folders[0] / "a.nii.gz"
    write_volume(file, scan())
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert arrivals.look(0.0) == []
    file.write_bytes(whole)
    assert arrivals.look(10.0) == []
    os.utime(file, ns=(1, 1))  # a copy that keeps the time of its source sets it last
    assert arrivals.look(20.0) == []
    assert arrivals.look(30.0) == [Study(file)]


def test_study_that_changes_later_is_given_again_and_one_that_went_away_is_forgotten(
    arrivals: Arrivals,
) -> None:
    study = arrivals.folders[0] / "study"
    _add(study, 0)
    arrivals.look(0.0)
    assert arrivals.look(10.0) == [Study(study)]
    _add(study, 1)
    assert arrivals.look(20.0) == []
    assert arrivals.look(30.0) == [Study(study)]

    shutil.rmtree(study)
    assert arrivals.look(40.0) == []
    _add(study, 0)
    _add(study, 1)
    assert arrivals.look(50.0) == []
    assert arrivals.look(60.0) == [Study(study)]


def test_loose_slices_are_one_study_and_what_is_no_scan_is_passed_over(arrivals: Arrivals) -> None:
    folder = arrivals.folders[0]
    for number in range(3):
        _add(folder, number)
    (folder / "notes.txt").write_text("no scan")
    (folder / ".hidden").mkdir()
    _add(folder / ".hidden", 0)
    _add(folder / "out", 0)
    write_volume(folder / "a_mask.nii.gz", scan())
    (folder / "empty").mkdir()
    (folder / "broken.nii.gz").write_bytes(b"cut off")
    arrivals.look(0.0)
    assert arrivals.look(10.0) == [
        Study(folder, is_loose=True),
        Study(folder / "broken.nii.gz"),
    ]


def test_folder_that_is_away_for_a_moment_stops_nothing(arrivals: Arrivals) -> None:
    folder = arrivals.folders[0]
    shutil.rmtree(folder)
    assert arrivals.look(0.0) == []
    folder.mkdir()
    _add(folder / "study", 0)
    arrivals.look(1.0)
    assert arrivals.look(11.0) == [Study(folder / "study")]
