"""Several classes through all of it: processes, resume, ensemble, archive, ONNX."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hemseg_cli.config import Config
from hemseg_cli.core.classes import PREDEFINED, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.inference.export import export
from hemseg_cli.inference.predict import predict
from hemseg_cli.models.archive import read_models
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.checkpoint_settings import classes_of
from hemseg_cli.training.train import train
from tests.torchrun import run_two
from tests.training.class_scans import KINDS, class_data
from tests.training.scans import config_for
from tests.training.small_run import SMALL_DYNUNET, assert_same_state, write_config

KEYS = [kind.key for kind in KINDS]
_FIRST = "input_block.conv1.conv.weight"


def _config(root: Path, *assignments: str) -> Config:
    return config_for(
        root / "data",
        f"runs.root='{root / 'runs'}'",
        *SMALL_DYNUNET,
        "data.dataset=five",
        "train.patch=[16, 16, 4]",
        "train.patches_per_scan=2",
        "train.batch_size=2",
        "train.epochs=2",
        "train.validation_every=1",
        "train.precision=float32",
        "predict.split=val",
        "predict.previews=false",
        *assignments,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on five classes."""
    root = tmp_path_factory.mktemp("several")
    class_data(root, "five", drawn=KEYS, train=3, val=1)
    train(_config(root), run="one")
    train(_config(root, "train.seed=8"), run="second")
    return root


def test_two_processes_train_what_one_does_and_resume_is_exact(place: Path) -> None:
    file = str(write_config(place, _config(place)))
    run_two("train", "--config", file, "--run", "two", "--json")
    one, two = (RunDirectory(place / "runs" / name) for name in ("one", "two"))
    ours, theirs = (read_checkpoint(run.checkpoint("last")) for run in (one, two))
    assert ours["network"]["output_block.conv.conv.weight"].shape[0] == len(KINDS)
    for key, weight in ours["network"].items():
        torch.testing.assert_close(theirs["network"][key], weight, rtol=1e-3, atol=1e-4)

    # From the first epoch on, in one process: bit by bit the run that went through.
    copy = RunDirectory(place / "runs" / "resumed")
    shutil.copytree(one.path, copy.path)
    copy.checkpoint("previous").replace(copy.checkpoint("last"))
    train(_config(place), run="resumed", resume=True)
    assert_same_state(one, copy)


def _probabilities(folder: Path, scan: str) -> dict[str, np.ndarray]:
    return {
        key: np.asarray(
            nib.load(folder / "probability" / f"{scan}_{key}_probability.nii.gz").dataobj
        )
        for key in KEYS
    }


def test_ensemble_is_the_mean_of_each_class_and_every_class_is_saved(place: Path) -> None:
    config = _config(place, "predict.save_probabilities=true", "predict.crop=false")
    (image,) = (place / "data" / "five" / "val" / "image").glob("*.nii.gz")
    scan = image.name.removesuffix(".nii.gz")
    found = {}
    for name, runs in (("one", ["one"]), ("second", ["second"]), ("both", ["one", "second"])):
        predict(config, runs=runs, inputs=[image], out=place / "out" / name)
        found[name] = _probabilities(place / "out" / name, scan)
    for key in KEYS:
        mean = (found["one"][key] + found["second"][key]) / 2
        np.testing.assert_allclose(found["both"][key], mean, atol=2 / 255)

    # The file without a class is the highest of them.
    file = place / "out" / "both" / "probability" / f"{scan}_probability.nii.gz"
    highest = np.max(list(found["both"].values()), axis=0)
    np.testing.assert_allclose(np.asarray(nib.load(file).dataobj), highest, atol=1e-6)


def test_archive_predicts_what_the_run_does_and_names_the_classes(place: Path) -> None:
    export(_config(place), run="one", out=place / "model.zip")
    (model,) = read_models(place / "model.zip")
    assert classes_of(model) == KINDS

    (image,) = (place / "data" / "five" / "val" / "image").glob("*.nii.gz")
    masks = []
    for name, run in (("run", "one"), ("zip", str(place / "model.zip"))):
        predict(_config(place), runs=[run], inputs=[image], out=place / "same" / name)
        mask = next((place / "same" / name).glob("*_mask.nii.gz"))
        masks.append(read_label(mask).array)
    np.testing.assert_array_equal(*masks)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_onnx_gives_every_class_as_torch_does(place: Path) -> None:
    import onnxruntime

    # The export itself compares with torch and refuses a difference.
    result = export(_config(place), run="one", out=place / "o.zip", onnx=place / "model.onnx")
    assert max(result.onnx_differences) < 1e-4
    session = onnxruntime.InferenceSession(str(result.onnx[0]))
    shape = [1, *read_models(place / "o.zip")[0]["model"][_FIRST].shape[1:2], 16, 16, 4]
    [answer] = session.run(None, {"image": np.zeros(shape, dtype=np.float32)})
    assert answer.shape == (1, len(KINDS), 16, 16, 4)


def test_softmax_puts_one_class_on_a_voxel_through_training_archive_and_prediction(
    place: Path,
) -> None:
    config = _config(
        place,
        "train.activation=softmax",
        "predict.save_probabilities=true",
        "predict.crop=false",
    )
    run = train(config, run="exclusive").run
    assert read_checkpoint(run.checkpoint("best"))["activation"] == "softmax"
    archive = export(config, run="exclusive", out=place / "exclusive.zip").archive
    assert [network["activation"] for network in read_models(archive)] == ["softmax"]

    (image,) = (place / "data" / "five" / "val" / "image").glob("*.nii.gz")
    scan = image.name.removesuffix(".nii.gz")
    predict(config, runs=[str(archive)], inputs=[image], out=place / "out" / "exclusive")
    total = sum(_probabilities(place / "out" / "exclusive", scan).values())
    # Stored in steps of 1/255 each.
    assert total.max() <= 1 + len(KEYS) / 255
    assert total.max() > 0


def test_softmax_is_refused_where_one_class_holds_another(tmp_path: Path) -> None:
    class_data(tmp_path, "five", drawn=KEYS, train=2, val=1)
    folder = DataDirectory(tmp_path / "data" / "five")
    write_classes(folder, (replace(PREDEFINED[0], value=1), *KINDS))
    with pytest.raises(
        UsageError, match=r"softmax puts one class on a voxel, and EDH is a kind of hemorrhage"
    ):
        train(_config(tmp_path, "train.activation=softmax"), run="nested")
