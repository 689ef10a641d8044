import os
import signal
from pathlib import Path

import pytest
import torch

from hemseg_cli.config import Config
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.errors import HemsegError, Stopped
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.inference.calibration import Calibration
from hemseg_cli.inference.predict import predict
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training import calibrate as calibrating
from hemseg_cli.training.calibrate import calibrate, plan_calibration, store_calibration
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.train import train
from tests.inference.small_model import make_run
from tests.training.small_run import small_config, small_data

QUICK = ("train.epochs=1", "train.choose=none", "predict.split=val", "evaluate.split=val")


def calibrated(config: Config, name: str) -> Calibration:
    best = config.runs.root / name / "checkpoints" / "best.pt"
    return Calibration.from_dict(read_checkpoint(best)["calibration"])


def test_pairs_are_the_volumes_that_predict_and_evaluate_find(tmp_path: Path) -> None:
    small_data(tmp_path, train=3, val=20)
    config, checkpoint = small_config(tmp_path, *QUICK), make_run(tmp_path)
    plan = plan_calibration(data_set_cases(config))
    *steps, found = calibrate(checkpoint, config, plan, torch.device("cpu"))
    assert steps == [None] * plan.steps == [None] * 23
    assert found is not None
    assert found.look is not None
    assert (found.look.scans, found.reason()) == (23, "")
    store_calibration(checkpoint, found)

    # An oracle by another way: the masks and tables of the commands.
    predict(config)
    run = evaluate(config).runs[0]
    expected = sorted(zip(run.table["predicted_ml"], run.table["truth_ml"], strict=True))
    for pair, row in zip(sorted(found.volumes["union"].values()), expected, strict=True):
        assert pair == pytest.approx(row, abs=1e-5)
    assert expected[0][0] > 0
    # These are the scans that it was calibrated on: the extremes of 20 hold all of them.
    assert run.summary.metrics["volume_coverage"].mean == 1.0


def test_training_calibrates_what_it_has_trained(tmp_path: Path) -> None:
    small_data(tmp_path, train=3, val=20)
    config = small_config(tmp_path, *QUICK)
    trained = train(config, run="a")
    assert "volumes calibrated on 20 val scans" in trained.run.log_file.read_text()
    assert len(calibrated(config, "a").volumes["union"]) == 20


def test_too_few_val_scans_are_said_by_train_and_by_predict(tmp_path: Path) -> None:
    small_data(tmp_path)
    config = small_config(tmp_path, *QUICK)
    trained = train(config, run="a")
    assert (
        "no intervals of volumes: it was validated on 2 scans" in trained.run.log_file.read_text()
    )
    assert calibrated(config, "a") == Calibration(2)

    result = predict(config, runs=["a"])
    said = "it was validated on 2 scans, and an interval needs 20"
    assert result.payload()["no_interval"] == said
    assert f"no interval of the mL: {said}" in result.tables()[0].caption
    assert "90 %" not in result.tables()[0].columns


def test_calibration_that_is_not_wanted_is_not_made(tmp_path: Path) -> None:
    small_data(tmp_path)
    config = small_config(tmp_path, *QUICK, "train.calibrate=false")
    trained = train(config, run="a")
    assert "calibration" not in read_checkpoint(trained.run.checkpoint("best"))
    assert "was not calibrated" in predict(config, runs=["a"]).no_interval
    with pytest.raises(HemsegError, match="is finished"):
        train(config, run="a", resume=True)


def test_calibration_that_was_stopped_is_completed_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_data(tmp_path, train=3, val=20)
    config = small_config(tmp_path, *QUICK)
    real = calibrating._mark

    def interrupted(*arguments: object) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)  # type: ignore[arg-type]  # passed on

    with monkeypatch.context() as patch:
        patch.setattr(calibrating, "_mark", interrupted)
        with pytest.raises(Stopped, match="--resume --run a   calibrates its volumes"):
            train(config, run="a")
    best = config.runs.root / "a" / "checkpoints" / "best.pt"
    assert "calibration" not in read_checkpoint(best)

    train(config, run="a", resume=True)
    assert len(calibrated(config, "a").volumes["union"]) == 20
    with pytest.raises(HemsegError, match="is finished"):
        train(config, run="a", resume=True)


def test_scan_that_predict_would_refuse_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_data(tmp_path, train=3, val=21)
    config = small_config(tmp_path, *QUICK)
    last = read_cases(config.data.cases_file)[-1]
    plan = plan_calibration(data_set_cases(config))
    (config.data.folder / last.image).write_bytes(b"damaged")
    assert calibrating._read(*plan.val[-1]) is None
    assert f"scan {last.scan} is left out of the calibration" in capsys.readouterr().err
    assert calibrating._read(*plan.val[0]) is not None
