"""`predict --watch`: studies are taken as they arrive, Ctrl-C ends well, the next call goes on."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.imaging.nifti import read_volume, write_volume
from hemseg_cli.inference.inputs.arriving import Study
from hemseg_cli.inference.watch import scans_of
from tests.dicom_files import head
from tests.inference.small_model import make_run, scan

COMMAND = [
    *("predict", "in", "--watch", "--out", "out", "--device", "cpu"),
    *("--set", "predict.settle_s=1", "--set", "predict.previews=false"),
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and an empty folder to watch, as the current one."""
    make_run(tmp_path)
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _start(work: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hemseg_cli", *COMMAND, "--json"],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until it is so; a process that ends before says why."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def _rows(work: Path) -> dict[str, str]:
    file = work / "out/volumes.csv"
    if not file.is_file():
        return {}
    rows = csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines())
    return {row["scan"]: row["predicted_ml"] for row in rows}


def _stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    return process.returncode, out, err


def test_studies_are_predicted_as_they_arrive_and_ctrl_c_ends_well(work: Path) -> None:
    write_volume(work / "in/first.nii.gz", scan())
    process = _start(work)
    try:
        _wait_for(lambda: "first" in _rows(work), process)

        # The second half of a study comes after a pause: nothing is made of the first half.
        slices = list(head(8).items())
        for name, data in slices[:4]:
            (work / "in/study/CT").mkdir(parents=True, exist_ok=True)
            (work / "in/study/CT" / f"{name}.dcm").write_bytes(data)
            time.sleep(0.4)
        assert set(_rows(work)) == {"first"}
        for name, data in slices[4:]:
            (work / "in/study/CT" / f"{name}.dcm").write_bytes(data)
        _wait_for(lambda: "study_CT" in _rows(work), process)
        assert read_volume(work / "out/study_CT_mask.nii.gz").array.shape[2] == 8
    finally:
        code, out, err = _stop(process)

    assert code == 0, err
    assert "watching has ended" in err
    answer = json.loads(out)
    assert [row["scan"] for row in answer["predicted"]] == ["first", "study_CT"]
    assert answer["failed"] == []


def test_next_call_goes_on_and_a_study_that_fails_can_be_completed(work: Path) -> None:
    write_volume(work / "in/first.nii.gz", scan())
    assert run(["predict", "in", "--out", "out", "--quiet", "--device", "cpu"]) == 0
    slices = list(head(6).items())
    (work / "in/study").mkdir()
    (work / "in/study" / f"{slices[0][0]}.dcm").write_bytes(slices[0][1])
    process = _start(work)
    try:
        record = work / "out/.cases/study.json"
        _wait_for(lambda: record.is_file() and '"process": null' in record.read_text(), process)
        for name, data in slices[1:]:
            (work / "in/study" / f"{name}.dcm").write_bytes(data)
        _wait_for(lambda: "study" in _rows(work), process)
    finally:
        code, out, err = _stop(process)

    answer = json.loads(out)
    assert (code, answer["failed"]) == (0, []), err
    assert "a single slice has no slice distance" in err
    assert answer["already_done"] == ["first"]
    assert [row["scan"] for row in answer["predicted"]] == ["study"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--watch needs a folder"),
        (["scan.nii.gz"], "not a folder"),
        (["in", "--part", "1/2"], "--watch and --part"),
    ],
)
def test_only_folders_can_be_watched(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    write_volume(work / "scan.nii.gz", scan())
    assert run(["predict", *arguments, "--watch"]) == 2
    assert reason in capsys.readouterr().err


def test_scans_are_named_by_their_place_whatever_else_has_arrived(work: Path) -> None:
    for number, place in enumerate(("in/anna", "in/bert/CT", "in/carl/CT", "in")):
        for name, data in head(4, SeriesInstanceUID=f"1.2.3.{number}").items():
            (work / place).mkdir(parents=True, exist_ok=True)
            (work / place / f"{name}.dcm").write_bytes(data)
    write_volume(work / "in/dora.nii.gz", scan())

    def names(study: Study) -> list[str]:
        return [one.name for one in scans_of(study, "folder", work / "out/.cases").sources]

    assert names(Study(work / "in/anna")) == ["anna"]
    assert names(Study(work / "in/bert")) == ["bert_CT"]
    assert names(Study(work / "in/carl")) == ["carl_CT"]
    assert names(Study(work / "in/dora.nii.gz")) == ["dora"]
    (loose,) = names(Study(work / "in", is_loose=True))
    assert loose.startswith("series-")
    nothing = scans_of(Study(work / "runs"), "folder", work / "out/.cases")
    assert nothing.sources == []
    assert "holds no head CT" in nothing.left_out[0].reason
