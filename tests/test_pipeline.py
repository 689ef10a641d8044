"""The whole pipeline through the command line, on a phantom too small to be beautiful."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.app import run
from hemseg_cli.core.cases import read_cases
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.models.registry import MODELS

CONFIG = """\
[data]
dataset = "phantom"
[fetch]
source = "phantom"
[convert]
dicom = "phantom"
[compute]
workers = 0
[train]
epochs = 1
patch = [32, 32, 16]
patches_per_scan = 1
validation_cases = 1
[predict]
previews = false
"""
# Small enough to train an epoch in a second; names are those of the registry.
SMALL: dict[str, str] = {
    "unet": "{channels = [4, 8], strides = [2]}",
    "vnet": "{}",
    "segresnet": "{init_filters = 8, blocks_down = [1, 1], blocks_up = [1]}",
    "attention-unet": "{channels = [4, 8], strides = [2]}",
    "unetr": "{feature_size = 4, hidden_size = 24, mlp_dim = 24, num_heads = 2}",
    "swin-unetr": "{feature_size = 12}",
    "dynunet": "{channels = [4, 8, 8], strides = [[1,1,1],[2,2,1],[2,2,2]], "
    "kernels = [[3,3,1],[3,3,3],[3,3,3]], supervised_levels = 1}",
}
PATCHES = {"swin-unetr": "[64, 32, 32]"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, labels and converted images."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_phantom(
        folder / "phantom", seed=5, patients=6, matrix=48, slices=(10, 12), smallest_ml=3.0
    )
    (folder / "hemseg.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["fetch-labels", "--quiet"]) == 0
        assert run(["convert", "--quiet"]) == 0
    return folder


def _json(
    arguments: list[str], capsys: pytest.CaptureFixture[str], *, status: int = 0
) -> dict[str, Any]:
    """Run a command with --json and return the one object that it printed."""
    capsys.readouterr()
    assert run([*arguments, "--json", "--quiet"]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_size_is_given_for_every_network() -> None:
    assert set(SMALL) <= set(MODELS)


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.filterwarnings("ignore")  # of the networks' own libraries
def test_every_network_trains_predicts_evaluates_and_reports(
    model: str, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)
    size = [
        "--set",
        f"train.network={SMALL[model]}",
        "--set",
        f"train.patch={PATCHES.get(model, '[32, 32, 16]')}",
    ]
    trained = _json(["train", "--model", model, "--run", model, *size], capsys)
    assert trained["model"] == model
    test_cases = [
        case for case in read_cases(Path("data/phantom/cases.csv")) if case.split == "test"
    ]
    predicted = _json(["predict"], capsys)
    assert predicted["run"] == model
    assert len(predicted["predicted"]) == len(test_cases)
    evaluated = _json(["evaluate", "--bootstrap", "100"], capsys)
    assert str(len(test_cases)) in json.dumps(evaluated)
    reported = _json(["report"], capsys)
    page = Path(f"runs/{model}/report.html")
    assert page.is_file()
    assert Path(f"runs/{model}/report.md").is_file()
    assert str(page) in json.dumps(reported)
    for case in test_cases:
        mask, image = (
            read_volume(Path(path))
            for path in (
                f"runs/{model}/predictions/test/{case.scan}.nii.gz",
                f"data/phantom/{case.image}",
            )
        )
        assert mask.array.shape == image.array.shape
        assert np.allclose(mask.affine, image.affine, atol=1e-4)


def test_everything_typed_again_does_only_what_is_missing(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)
    images = sorted(Path("data/phantom").glob("*/image/*.nii.gz"))
    before = {path: path.stat().st_mtime_ns for path in images}
    assert run(["fetch-labels", "--quiet"]) == 0
    assert run(["convert", "--quiet"]) == 0
    assert {path: path.stat().st_mtime_ns for path in images} == before
    images[0].unlink()
    assert run(["convert", "--quiet"]) == 0
    assert images[0].is_file()
    assert {path: path.stat().st_mtime_ns for path in images[1:]} == {
        path: before[path] for path in images[1:]
    }


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "--config", "absent.toml"], 2, "hemseg config init"),
        (["train", "--model", "attention_unet"], 2, "did you mean attention-unet"),
        (["predict", "--run", "absent"], 1, "no run absent"),
        (["evaluate", "--run", "absent"], 1, "no run absent"),
        (["report", "absent"], 1, "no run absent"),
        (["predict", "--split", "holdout"], 2, "holdout"),
        (["evaluate", "--split", "holdout"], 2, "holdout"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    status: int,
    said: str,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(prepared)
    assert run(arguments) == status
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "report", "convert"])
def test_in_an_empty_folder_each_command_says_what_to_type_first(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([command]) in (1, 2)
    err = capsys.readouterr().err
    assert "hemseg " in err or "--" in err
    assert "Traceback" not in err


def test_image_and_label_of_different_shape_stop_training_with_both_named(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(prepared, tmp_path / "copy", ignore=shutil.ignore_patterns("runs", ".cache"))
    monkeypatch.chdir(tmp_path / "copy")
    case = next(
        case for case in read_cases(Path("data/phantom/cases.csv")) if case.split == "train"
    )
    label = read_volume(Path("data/phantom") / case.label)
    write_volume(Path("data/phantom") / case.label, Volume(label.array[:-1], label.affine))
    assert run(["train", "--model", "unet", "--set", f"train.network={SMALL['unet']}"]) == 1
    err = capsys.readouterr().err
    assert case.scan in err
    assert "48" in err
    assert "47" in err


def test_file_that_is_no_nifti_fails_alone(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)
    size = ["--set", f"train.network={SMALL['unet']}"]
    assert run(["train", "--model", "unet", "--run", "for-files", "--quiet", *size]) == 0
    image = next(Path("data/phantom/test/image").glob("*.nii.gz"))
    Path("not.nii.gz").write_text("this is text")
    answer = _json(
        ["predict", str(image), "not.nii.gz", "--run", "for-files", "--out", "masks"],
        capsys,
        status=1,
    )
    assert [failure["scan"] for failure in answer["failed"]] == ["not"]
    assert "not.nii.gz" in answer["failed"][0]["error"]
    assert Path("masks", image.name.replace(".nii.gz", "_mask.nii.gz")).is_file()


def test_exported_model_predicts_the_same_masks(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)
    size = ["--set", f"train.network={SMALL['dynunet']}"]
    assert run(["train", "--run", "to-share", "--quiet", *size]) == 0
    assert _json(["export", "to-share", "--out", "model.zip"], capsys)["archive"] == "model.zip"
    image = next(Path("data/phantom/test/image").glob("*.nii.gz"))
    for name, model in (("a", "to-share"), ("b", "model.zip")):
        assert (
            run(
                [
                    "predict",
                    str(image),
                    "--run",
                    model,
                    "--out",
                    name,
                    "--save-probabilities",
                    "--quiet",
                ]
            )
            == 0
        )
    name = image.name.removesuffix(".nii.gz")
    first, second = (
        read_volume(Path(folder, "probability", f"{name}_probability.nii.gz")).array
        for folder in ("a", "b")
    )
    assert np.array_equal(first, second)
    damaged = bytearray(Path("model.zip").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    Path("damaged.zip").write_bytes(damaged)
    assert run(["predict", str(image), "--run", "damaged.zip", "--out", "c"]) == 1
    assert "damaged.zip" in capsys.readouterr().err


def test_dicom_folder_becomes_a_dicom_segmentation(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    from tests.dicom_series import read_seg

    monkeypatch.chdir(prepared)
    case = next(case for case in read_cases(Path("data/phantom/cases.csv")) if case.split == "test")
    slices = json.loads(Path("data/phantom", case.image.replace(".nii.gz", ".json")).read_text())[
        "source_slices"
    ]
    Path("series").mkdir()
    for name in slices:
        shutil.copy(f"phantom/stage_2_train/ID_{name}.dcm", "series")
    size = ["--set", f"train.network={SMALL['dynunet']}"]
    assert run(["train", "--run", "for-seg", "--quiet", *size]) == 0
    _json(
        ["predict", "series", "--run", "for-seg", "--format", "dicom-seg", "--out", "seg"], capsys
    )
    mask = read_volume(Path("seg/series_mask.nii.gz"))
    got, names, _ = read_seg(Path("seg/series_mask.dcm"))
    assert np.array_equal(got, mask.array)
    assert len(names) == len(slices)
    image = next(Path("data/phantom/test/image").glob("*.nii.gz"))
    assert (
        run(["predict", str(image), "--run", "for-seg", "--format", "dicom-seg", "--out", "none"])
        == 1
    )
    assert "no DICOM series" in capsys.readouterr().err
