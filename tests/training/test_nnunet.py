"""nnU-Net's own trainer on a CPU, for a few batches: plan, train, resume, predict."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemseg_cli import app
from hemseg_cli.config import Config, dump, load
from hemseg_cli.config.schema import PredictConfig, RunsConfig
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.core.run_directory import RunDirectory, create_run
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.checkpoints import find_models
from hemseg_cli.inference.ensemble import load_networks
from hemseg_cli.inference.nnunet import NnunetNetwork, load_nnunet, quiet_stdout
from hemseg_cli.inference.settings import Settings
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training.nnunet import restored_progress, train_nnunet
from hemseg_cli.training.nnunet_dataset import Workspace, write_dataset

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("nnunetv2") is None, reason="extra nnunet is not installed"
    ),
    # nnU-Net's own code and its dependencies warn of what is none of ours.
    pytest.mark.filterwarnings("ignore"),
]

LPS = np.diag([-2.0, -2.0, 5.0, 1.0])
RAS = np.diag([2.0, 2.0, 5.0, 1.0])


def _draw(folder: Path, scan: str, seed: int, affine: np.ndarray) -> Case:
    random = np.random.default_rng(seed)
    hu = random.normal(30, 4, (48, 40, 10)).astype(np.int16)
    label = np.zeros(hu.shape, dtype=np.uint8)
    x, y = random.integers(10, 28, 2)
    label[x : x + 10, y : y + 10, 3:7] = 1
    hu[label > 0] += 40
    write_volume(folder / "image" / f"{scan}.nii.gz", Volume(hu, affine))
    write_volume(folder / "label" / f"{scan}.nii.gz", Volume(label, affine))
    return Case(
        scan=scan,
        patient=scan,
        split="train",
        image=f"image/{scan}.nii.gz",
        label=f"label/{scan}.nii.gz",
    )


def _config(root: Path, epochs: int) -> Config:
    keys = {
        "plans": "default",
        "memory_gb": 1.0,
        "iterations_per_epoch": 2,
        "validation_iterations": 1,
        "mirror": False,
    }
    return load(
        environ={},
        options={
            "data.root": str(root),
            "data.dataset": "drawn",
            "train.model": "nnunet",
            "train.epochs": epochs,
            "compute.workers": 0,
            **{f"train.nnunet.{key}": value for key, value in keys.items()},
        },
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunDirectory, list[Case]]:
    root = tmp_path_factory.mktemp("nnunet")
    cases = [_draw(root / "drawn", f"000000000{n}", n, LPS if n else RAS) for n in range(4)]
    run = create_run(root / "runs", model="nnunet", name="a")
    config = _config(root, epochs=1)
    for _ in train_nnunet(config, run, train=cases[:3], val=cases[3:], device=torch.device("cpu")):
        pass
    return root, run, cases


def test_our_split_and_orientation_reach_nnunet(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    _, run, cases = trained
    workspace = Workspace(run.path / "nnunet")
    [split] = json.loads((workspace.preprocessed / "splits_final.json").read_text())
    assert split == {"train": [case.scan for case in cases[:3]], "val": [cases[3].scan]}
    turned = read_volume(workspace.raw / "labelsTr" / f"{cases[0].scan}.nii.gz")
    assert np.array_equal(np.sign(np.diag(turned.affine)[:3]), [-1, -1, 1])
    drawn = read_volume(run.path.parent.parent / "drawn" / cases[0].label)
    assert np.array_equal(turned.array, drawn.array[::-1, ::-1])
    index = np.array([5, 7, 2, 1])
    mirrored = np.array([drawn.array.shape[0] - 6, drawn.array.shape[1] - 8, 2, 1])
    assert np.allclose(turned.affine @ index, drawn.affine @ mirrored)


def test_checkpoint_loads_without_code_and_predicts_on_the_scans_own_grid(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    root, run, cases = trained
    model = load_nnunet(read_checkpoint(run.checkpoint("best")), Settings(), torch.device("cpu"))
    straight = read_volume(root / "drawn" / cases[1].image)
    probability = model.probability(straight)
    assert probability.shape == straight.array.shape
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1
    # The same scan stored in another orientation gives the same answer in that orientation.
    index = np.array(
        [[0, 0, -1.0, straight.array.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    )
    turned = Volume(straight.array.transpose(1, 2, 0)[:, :, ::-1], straight.affine @ index)
    assert np.allclose(
        model.probability(turned), probability.transpose(1, 2, 0)[:, :, ::-1], atol=1e-5
    )


def test_resume_goes_on_where_it_stopped_and_keeps_the_history(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    root, run, cases = trained
    before = read_checkpoint(run.checkpoint("last"))
    steps = list(
        train_nnunet(
            _config(root, epochs=2),
            run,
            train=cases[:3],
            val=cases[3:],
            device=torch.device("cpu"),
            state=before,
        )
    )
    assert len(steps) == 1
    assert [row["epoch"] for row in steps[0].rows] == [1, 2]
    after = read_checkpoint(run.checkpoint("last"))
    assert after["epoch"] == 2
    assert any(
        not torch.equal(before["model"][key], after["model"][key]) for key in before["model"]
    )
    header, *lines = run.history_file.read_text().splitlines()
    assert header.startswith("epoch,seconds,lr,train_loss,val_loss,val_dice,best")
    assert [line.split(",")[0] for line in lines] == ["1", "2"]


def test_plans_that_name_foreign_code_are_refused(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    _, run, _ = trained
    checkpoint: dict[str, Any] = read_checkpoint(run.checkpoint("best"))
    plans = json.loads(checkpoint["model_config"]["plans"])
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    checkpoint["model_config"]["plans"] = json.dumps(plans)
    with pytest.raises(
        FileFormatError, match=r"code outside nnU-Net: network_class_name = 'os\.system'"
    ):
        load_nnunet(checkpoint, Settings(), torch.device("cpu"))


def test_the_users_settings_win_over_those_of_the_training(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    root, run, cases = trained
    best, cpu = run.checkpoint("best"), torch.device("cpu")
    as_trained, mirrored = (
        load_networks(best, config, cpu, None)[0]
        for config in (PredictConfig(), PredictConfig(tta=True, overlap=0.25))
    )
    assert (as_trained.settings.tta, as_trained.settings.overlap) == (False, 0.5)
    assert (mirrored.settings.tta, mirrored.settings.overlap) == (True, 0.25)

    # With test-time augmentation, a mirrored scan has the mirrored answer; without it, an untrained
    # network gives another.
    scan = read_volume(root / "drawn" / cases[1].image)
    turned = Volume(scan.array[::-1].copy(), scan.affine)
    for member, same in ((mirrored, True), (as_trained, False)):
        assert isinstance(member, NnunetNetwork)
        answers = member.model.probability(scan), member.model.probability(turned)[::-1]
        assert (
            np.abs(answers[0] - answers[1]).mean() < 0.01
        ) == same  # nnU-Net sums logits in half precision


def test_missing_image_is_named(tmp_path: Path) -> None:
    case = Case(scan="0123456789", split="train", image="", label="label/x.nii.gz")
    with pytest.raises(CaseError, match="scan 0123456789"):
        write_dataset(Workspace(tmp_path), tmp_path, train=[case], val=[])


def test_without_validation_cases_it_says_how_to_get_some(tmp_path: Path) -> None:
    case = Case(scan="0123456789", split="train")
    with pytest.raises(HemsegError, match="needs training and validation cases") as caught:
        next(
            train_nnunet(
                _config(tmp_path, 1),
                RunDirectory(tmp_path),
                train=[case],
                val=[],
                device=torch.device("cpu"),
            )
        )
    assert "--fold" in caught.value.hint


def test_what_nnunet_prints_goes_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    with quiet_stdout(str(log)):
        print("from python")
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
    assert log.read_text() == "from python\n"


def test_all_folds_resumed_leave_a_finished_fold_alone_and_train_the_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "drawn"
    write_cases(folder / "cases.csv", [_draw(folder, f"scan{n}", n, LPS) for n in range(4)])
    config = _config(tmp_path / "data", epochs=1)
    config = config.model_copy(update={"runs": RunsConfig(root=tmp_path / "runs")})
    (tmp_path / "hemseg.toml").write_text(dump(config))
    command = ["train", "--config", str(tmp_path / "hemseg.toml"), "--fold", "all", "--folds", "2"]

    assert app.run([*command, "--run", "cv", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    shutil.rmtree(tmp_path / "runs" / "cv-fold1")
    kept = tmp_path / "runs" / "cv-fold0" / "checkpoints" / "last.pt"
    before = kept.stat().st_mtime_ns

    assert app.run([*command, "--run", "cv", "--json", "--resume"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["folds"][0] == first["folds"][0]
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "runs" / "cv-fold1" / "checkpoints" / "best.pt").is_file()


def test_last_checkpoint_of_another_model_is_not_resumed_as_nnunet(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    for checkpoint in ({"model_name": "unet"}, {"model_name": "nnunet", "nnunet": {"rows": 3}}):
        with pytest.raises(FileFormatError, match=r"last\.pt"):
            restored_progress(run, checkpoint)


def test_nnunet_trains_and_predicts_with_its_own_numbers_unless_told_otherwise(
    trained: tuple[Path, RunDirectory, list[Case]],
) -> None:
    root, run, _ = trained
    assert load(environ={}, options={"train.model": "nnunet"}).train.epochs == 1000
    assert load(environ={}, options={"train.model": "unet"}).train.epochs == 300

    config = _config(root, epochs=1).model_copy(update={"runs": RunsConfig(root=run.path.parent)})
    (run.config_file).write_text(dump(config))
    assert find_models(config, ["a"]).checkpoints == (run.checkpoint("last"),)
    asked = config.model_copy(update={"predict": PredictConfig(checkpoint="best")})
    assert find_models(asked, ["a"]).checkpoints == (run.checkpoint("best"),)
