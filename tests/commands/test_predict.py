import json
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.app import run
from hemseg_cli.config import load
from hemseg_cli.core.errors import EXIT_NOT_DONE, EXIT_USAGE


def test_predict_with_no_run_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", "--json"]) == EXIT_NOT_DONE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no run in runs" in captured.err
    assert "hemseg train" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [["--split", "tset"], ["--overlap", "1"], ["--checkpoint", "newest"], ["--format", "png"]],
)
def test_wrong_setting_is_a_usage_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", *arguments]) == EXIT_USAGE


def test_settings_are_the_runs_unless_the_user_sets_them() -> None:
    from hemseg_cli.inference.settings import Settings, chosen_settings

    stored = {"threshold": 0.4, "overlap": 0.5, "tta": True}
    plain = chosen_settings(load(None, environ={}).predict, stored)
    assert plain == Settings(overlap=0.5, tta=True, threshold=0.4)
    user = chosen_settings(
        load(None, environ={}, assignments=["predict.threshold=0.7", "predict.tta=false"]).predict,
        stored,
    )
    assert user == Settings(overlap=0.5, tta=False, threshold=0.7)


def test_one_bad_scan_is_exit_1_and_json_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hemseg_cli.imaging.nifti import Volume, write_volume
    from hemseg_cli.imaging.preprocess import Preprocess
    from hemseg_cli.models.checkpoint import write_checkpoint
    from hemseg_cli.models.registry import build_network

    monkeypatch.chdir(tmp_path)
    settings = {"channels": [2, 4], "strides": [2], "num_res_units": 0}
    write_checkpoint(
        tmp_path / "runs/r/checkpoints/best.pt",
        {
            "model": build_network("unet", settings, 1).state_dict(),
            "model_name": "unet",
            "model_config": settings,
            "preprocess": Preprocess().to_dict(),
            "patch": [8, 8, 4],
            "in_channels": 1,
            "step": 0,
            "epoch": 0,
        },
    )
    write_volume(tmp_path / "in/good.nii.gz", Volume(np.full((8, 8, 4), 30, np.int16), np.eye(4)))
    (tmp_path / "in/bad.nii").write_text("text")
    assert (
        run(["predict", "in", "--run", "r", "--json", "--out", "o", "--device", "cpu"])
        == EXIT_NOT_DONE
    )
    answer = json.loads(capsys.readouterr().out)
    assert [row["scan"] for row in answer["predicted"]] == ["good"]
    assert [row["scan"] for row in answer["failed"]] == ["bad"]
    assert (tmp_path / "o/good_mask.nii.gz").is_file()
