"""`hemseg evaluate` as it is typed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.app import run as hemseg
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.evaluation.toy import AFFINE, Workplace, block, make_workplace, truth


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hemseg.toml").write_text('[data]\ndataset = "toy"\n[compute]\nworkers = 0\n')
    return make_workplace(tmp_path)


def test_table_shows_mean_interval_and_number(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    place.run("a", truth)
    assert hemseg(["evaluate", "--run", "a"]) == 0
    shown = capsys.readouterr().out
    assert "a, split test, native protocol, 4 scans" in shown
    assert "Dice" in shown
    assert "too few" in shown  # four scans of three patients


def test_json_is_one_object(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.run("a", truth)
    place.run("b", lambda n: block(2 + 2 * n))
    assert (
        hemseg(
            [
                "evaluate",
                "--run",
                "a",
                "--run",
                "b",
                "--bootstrap",
                "200",
                "--confidence",
                "0.9",
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found["runs"]] == ["a", "b"]
    assert found["runs"][0]["summary"]["bootstrap"]["samples"] == 200
    assert found["comparison"]["confidence"] == 0.9


def test_case_that_cannot_be_scored_ends_with_exit_code_1_after_the_result(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place.run("a", truth)
    write_volume(
        run.prediction_file("test", "scan1"), Volume(np.full((3, 3, 3), 1, dtype=np.uint8), AFFINE)
    )
    assert hemseg(["evaluate", "--json"]) == 1
    said = capsys.readouterr()
    assert list(json.loads(said.out)["runs"][0]["failed"]) == ["scan1"]
    assert "scan scan1 was not scored" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--split", "tset"], 2, "evaluate.split"),
        (["--protocol", "papr"], 2, "evaluate.protocol"),
        (["--confidence", "1.5"], 2, "evaluate.confidence"),
        (["--bootstrap", "many"], 2, "--bootstrap"),
        (["--labels", "."], 2, "--labels without --predictions"),
        (["--protocol", "paper", "--bootstrap", "200"], 2, "--bootstrap has no effect"),
        (["--protocol", "paper", "--confidence", "0.9"], 2, "--confidence has no effect"),
        (["--protocol", "paper", "--set", "evaluate.seed=3"], 2, "evaluate.seed=3 has no effect"),
        (["--run", "nobody"], 1, "no run nobody"),
        (["--split", "val"], 1, "split val has no cases"),
    ],
)
def test_bad_input_is_named(
    place: Workplace,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    place.run("a", truth)
    assert hemseg(["evaluate", *arguments]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


def test_no_run_at_all(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert hemseg(["evaluate"]) == 1
    assert "hemseg train" in capsys.readouterr().err
    assert place.root.is_dir()


def test_no_predictions(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.run("a", lambda n: None)
    assert hemseg(["evaluate", "--run", "a"]) == 1
    assert "hemseg predict --run runs/a --split test" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_behind_and_the_same_command_finishes(place: Workplace) -> None:
    run = place.run("a", truth)
    held = run.prediction_file("test", "scan2")
    held.unlink()
    os.mkfifo(held)
    command = [sys.executable, "-m", "hemseg_cli", "evaluate", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with held.open(
        "wb"
    ):  # returns once the command has opened the mask, and waits for its first byte
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not list(run.path.glob("evaluation/**/*.*"))
    held.unlink()
    write_volume(held, Volume(truth(2), AFFINE))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert json.loads(again.stdout)["runs"][0]["summary"]["n_cases"] == 4
