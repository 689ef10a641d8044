"""Trackers are read back with their own libraries; pictures pixel by pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.training.cache import prepared_cases, preprocess_of
from hemseg_cli.training.history import COLUMNS
from hemseg_cli.training.picture import BOTH_COLOUR, LABEL_COLOUR, MASK_COLOUR, contour_picture
from hemseg_cli.training.scans import training_cases
from hemseg_cli.training.tracking import Trackers, open_trackers
from hemseg_cli.training.train import train
from tests.training.small_run import small_config

_QUICK = ("train.choose=none", "train.patches_per_scan=1")


def test_tensorboard_has_every_epoch_and_every_second_picture(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("train.trackers=['tensorboard']", "train.epochs=4", "train.picture_every=2")
    run = train(small_config(place, *_QUICK, *settings), run="board").run
    events: Any = EventAccumulator(str(run.history_file.parent / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_dice")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("validation")] == [1, 3]
    pictures = sorted((run.path / "train" / "pictures").iterdir())
    assert [file.name for file in pictures] == ["epoch-0001.png", "epoch-0003.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (384, 352)  # 24 x 22 pixels of 0.5 mm


def test_mlflow_has_the_figures_and_a_resume_goes_on_with_its_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    uri = (place / "server").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = small_config(place, *_QUICK, "train.trackers=['mlflow']", "train.picture_every=1")
    result = train(config, run="flow")
    longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 3})})
    train(longer, run="flow", resume=True)

    client = tracking.MlflowClient(uri)
    [found] = client.search_runs([client.get_experiment_by_name("hemseg").experiment_id])
    assert found.info.run_name == "flow"
    dice = client.get_metric_history(found.info.run_id, "val_dice")
    assert [point.step for point in dice] == [1, 2, 3]
    assert max(point.value for point in dice[:2]) == pytest.approx(result.best_dice)
    artifacts = client.list_artifacts(found.info.run_id, "validation")
    assert [Path(file.path).name for file in artifacts] == [f"epoch-000{n}.png" for n in (1, 2, 3)]


def test_weights_and_biases_writes_offline_what_it_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = small_config(place, *_QUICK, "train.trackers=['wandb']", "train.epochs=1")
    run = train(config, run="bees").run
    [file] = (run.path / "train").rglob("*.wandb")
    kept = (run.path / "train" / "wandb-id").read_text()
    written = file.read_bytes()
    assert kept in file.name
    assert b"val_dice" in written
    assert b"loss/step" in written


class _Down:
    errors = (ConnectionError,)

    def __init__(self) -> None:
        self.calls = 0

    def step(self, loss: float, step: int) -> None:
        self.calls += 1
        raise ConnectionError("no route to host")

    def epoch(self, values: Any, epoch: int) -> None:
        self.calls += 1

    def picture(self, file: Path, epoch: int) -> None:
        self.calls += 1

    def close(self) -> None:
        self.calls += 1


def test_a_server_that_goes_down_ends_its_tracking_and_not_the_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.configure()
    down = _Down()
    trackers = Trackers({"mlflow": down})
    trackers.step(0.5, 1)
    trackers.step(0.4, 2)
    trackers.epoch(dict.fromkeys(COLUMNS, 1.0))
    trackers.close()
    assert down.calls == 1
    assert capsys.readouterr().err.count("mlflow cannot be reached") == 1


def test_mlflow_without_a_server_says_what_to_type(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(HemsegError, match="needs the address of its server") as caught:
        train(small_config(place, "train.trackers=['mlflow']"), run="no-server")
    assert "MLFLOW_TRACKING_URI" in caught.value.hint
    assert not (place / "runs" / "no-server").exists()


def test_package_that_is_missing_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    config = small_config(place, "train.trackers=['wandb']")
    run: Any = None
    with pytest.raises(HemsegError, match="wandb is not installed") as caught:
        open_trackers(config, run).__enter__()
    assert "hemseg[tracking]" in caught.value.hint


def test_picture_shows_right_on_the_left_and_both_contours(place: Path) -> None:
    config = small_config(place)
    [case] = prepared_cases(config, training_cases(config).val[:1], preprocess_of(config.train))
    label = np.asarray(case.label) > 0
    number = int(label.sum(axis=(0, 1)).argmax())

    # The mask is the label: both contours agree.
    exact = contour_picture(case, label[None].astype(np.float32), 0.5)
    i, j = (axis.mean() for axis in np.nonzero(label[..., number]))
    rows, columns = np.nonzero((exact == BOTH_COLOUR).all(axis=2))
    assert exact.shape == (352, 384, 3)
    assert columns.mean() / 384 == pytest.approx(1 - (i + 0.5) / 24, abs=0.02)
    assert rows.mean() / 352 == pytest.approx(1 - (j + 0.5) / 22, abs=0.02)

    # Nothing found, and everything found: each contour by itself.
    missed = contour_picture(case, np.zeros((1, *label.shape), np.float32), 0.5)
    assert (missed == LABEL_COLOUR).all(axis=2).any()
    assert not (missed == MASK_COLOUR).all(axis=2).any()
    full = contour_picture(case, np.ones((1, *label.shape), np.float32), 0.5)
    assert (full[0, :] == MASK_COLOUR).all()
