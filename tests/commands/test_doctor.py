"""`hemseg doctor` at the command line: exit codes, and one JSON object on stdout."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli import app
from hemseg_cli.core.cases import Case, write_cases


@pytest.fixture
def one_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of one scan in `data/hemseg-200` of the current folder; returns its label."""
    monkeypatch.chdir(tmp_path)
    label = tmp_path / "data" / "hemseg-200" / "train" / "label" / "a.nii.gz"
    label.parent.mkdir(parents=True)
    array = np.zeros((8, 8, 4), dtype=np.int16)
    array[2:5, 2:5, 1:3] = 1
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 5.0, 1.0])), label)
    write_cases(
        tmp_path / "data" / "hemseg-200" / "cases.csv",
        [Case("a", "P", "train", label="train/label/a.nii.gz")],
    )
    return label


def test_machine_is_one_json_object(one_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert "torch" in report["versions"]


def test_healthy_data_exit_0(one_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--data", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert report["labels"] == 1
    assert report["truth_ml"]["total"] == pytest.approx(18 * 5 / 1000)


def test_unreadable_label_exits_1_and_is_named(
    one_scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_scan.write_bytes(b"no label at all")
    assert app.run(["doctor", "--data", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [(fault["scan"], fault["kind"]) for fault in report["faults"]] == [("a", "unreadable")]
    assert app.run(["doctor", "--data"]) == 1
    assert str(Path("train/label/a.nii.gz")) in capsys.readouterr().out


def test_no_case_table_exits_1_with_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["doctor", "--data"]) == 1
    assert "hemseg fetch-labels" in capsys.readouterr().err


def test_tables_state_the_verdict(one_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--data"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is wrong" in shown
    assert "1 scans have no image yet: a" in shown
