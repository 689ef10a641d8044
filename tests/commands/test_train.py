import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli import app
from hemseg_cli.core.cases import read_cases, write_cases
from hemseg_cli.core.run_directory import fold_runs, open_run
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.models.checkpoint import read_checkpoint
from tests.training.scans import ball_scan
from tests.training.small_run import small_config, small_data, write_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    small_data(root)
    return root


@pytest.fixture
def place(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(data / "data", tmp_path / "data")
    config = small_config(tmp_path, "train.epochs=1", "train.patches_per_scan=1")
    write_config(tmp_path, config).rename(tmp_path / "hemseg.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_shows_every_system_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["train", "--list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert models["attention-unet"]["reference_dice"] == 66.77
    assert models["nnunet"]["reference_dice"] == 78.99
    assert models["dynunet"]["reference_dice"] is None
    assert app.run(["train", "--list"]) == 0
    assert "19.2 M" in capsys.readouterr().out


def test_list_and_unknown_model_come_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hemseg_cli import app\n"
        "assert app.run(['train', '--list']) == 0 and app.run(['train', '--model', 'u-net']) == 2\n"
        "assert not {'torch', 'monai', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "did you mean unet?" in done.stderr


def test_trains_and_names_the_run_and_the_next_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", "--run", "first", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["next"] == "hemseg predict --run first"
    assert read_checkpoint(Path(result["checkpoint"]))["val_dice"] == result["best_dice"]
    assert (place / "runs" / "latest").resolve().name == "first"


def test_resume_takes_the_config_of_the_run_and_notices_a_typed_change(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", "--run", "a", "--set", "train.lr=0.002", "--quiet"]) == 0
    assert app.run(["train", "--resume"]) == 1
    assert "run a is finished: 1 epochs" in capsys.readouterr().err
    assert app.run(["train", "--resume", "--set", "train.lr=0.005"]) == 1
    assert "train.lr: 0.002 then, 0.005 now" in capsys.readouterr().err


def test_all_folds_make_a_run_each_and_one_command_for_the_ensemble(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", "--fold", "all", "--folds", "2", "--run", "cv", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["next"] == "hemseg predict --run cv"
    assert result["mean_best_dice"] == pytest.approx(
        np.mean([fold["best_dice"] for fold in result["folds"]])
    )
    # By themselves, the next commands take all folds, not the last one.
    assert open_run(place / "runs").folds == fold_runs(place / "runs" / "cv")
    assert app.run(["predict", "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "cv-ensemble"
    assert app.run(["evaluate", "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "cv-ensemble"
    assert open_run(place / "runs", "cv") == open_run(place / "runs")
    assert app.run(["train", "--resume"]) == 2
    assert "--fold all --folds 2 --resume --run cv" in capsys.readouterr().err

    # Resumed, the fold that is done is left alone, and the one that is not there is trained.
    shutil.rmtree(place / "runs" / "cv-fold1")
    before = (place / "runs" / "cv-fold0" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert (
        app.run(["train", "--fold", "all", "--folds", "2", "--run", "cv", "--json", "--resume"])
        == 0
    )
    again = json.loads(capsys.readouterr().out)
    assert again["mean_best_dice"] == result["mean_best_dice"]
    assert again["folds"][0] == result["folds"][0]
    assert (place / "runs" / "cv-fold0" / "checkpoints" / "last.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "dyn-unet"], 2, "did you mean dynunet?"),
        (["--recipe", "weak"], 2, "train.recipe: "),
        (["--device", "tpu"], 2, "compute.device: "),
        (["--device", "cuda:63"], 2, "compute.device = cuda:63: there is no such device here"),
        (["--set", "train.patch=[15, 16, 4]"], 2, "--set train.patch=[16, 16, 4]"),
        (["--fold", "7"], 2, "train.fold = 7: folds are 0 to 4"),
        (["--folds", "200", "--fold", "0"], 1, "5 patients do not fill 200 folds"),
        (["--resume"], 1, "no run in"),
        (["--resume", "--run", "none"], 1, "no run none"),
        (["--set", "train.network.chanels=[4]"], 2, "did you mean channels?"),
        (["--set", "data.dataset=nowhere"], 1, "no case table"),
        (["--fold", "all", "--resume"], 2, "--fold all --resume: which run?"),
    ],
)
def test_bad_input_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert app.run(["train", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def no_train_split(folder: Path) -> None:
    write_cases(
        folder / "cases.csv",
        [case for case in read_cases(folder / "cases.csv") if case.split != "train"],
    )


def third_label_value(folder: Path) -> None:
    label = read_volume(folder / "train" / "label" / "train1.nii.gz")
    array = label.array.copy()
    array[0, 0, 0] = 2
    write_volume(folder / "train" / "label" / "train1.nii.gz", Volume(array, label.affine))


def nan_in_an_image(folder: Path) -> None:
    image = read_volume(folder / "val" / "image" / "val4.nii.gz")
    array = image.array.astype(np.float32)
    array[3, 3, 3] = np.nan
    write_volume(folder / "val" / "image" / "val4.nii.gz", Volume(array, image.affine))


def no_foreground_anywhere(folder: Path) -> None:
    for file in (folder / "train" / "label").iterdir():
        label = read_volume(file)
        write_volume(file, Volume(np.zeros_like(label.array), label.affine))


def not_converted(folder: Path) -> None:
    write_cases(
        folder / "cases.csv",
        [dataclasses.replace(case, image="") for case in read_cases(folder / "cases.csv")],
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_train_split, "split train has no cases"),
        (third_label_value, "train1: label train/label/train1.nii.gz has the values 0, 1, 2"),
        (nan_in_an_image, "val4: image val/image/val4.nii.gz has 1 voxels that are not numbers"),
        (no_foreground_anywhere, "none of the 3 training labels has any hemorrhage"),
        (not_converted, "no image in the case table"),
    ],
)
def test_bad_data_is_named_by_scan(
    place: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(place / "data" / "tiny")
    assert app.run(["train"]) == 1
    assert message in capsys.readouterr().err


def test_one_label_without_foreground_is_said_and_trained_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = read_volume(place / "data" / "tiny" / "train" / "label" / "train0.nii.gz")
    write_volume(
        place / "data" / "tiny" / "train" / "label" / "train0.nii.gz",
        Volume(np.zeros_like(label.array), label.affine),
    )
    assert app.run(["train", "--json"]) == 0
    captured = capsys.readouterr()
    assert "1 labels have no hemorrhage: train0" in captured.err
    assert json.loads(captured.out)["epochs"] == 1


def test_patch_larger_than_the_scans_is_padded_and_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", "--set", "train.patch=[32, 32, 12]", "--json"]) == 0
    captured = capsys.readouterr()
    assert "train.patch = [32, 32, 12] is larger than 3 of 3 training scans" in captured.err
    assert read_checkpoint(Path(json.loads(captured.out)["checkpoint"]))["patch"] == [32, 32, 12]


def test_training_on_another_sets_test_scans_is_warned_of(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place / "data" / "other"
    write_cases(
        other / "cases.csv",
        [ball_scan(other, "train1", split="test"), ball_scan(other, "elsewhere", split="test")],
    )
    assert app.run(["train", "--json"]) == 0
    assert "1 of the 2 test scans of other are trained on here" in capsys.readouterr().err
