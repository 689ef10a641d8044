import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.config import Config
from hemseg_cli.config.schema import AugmentConfig, PredictConfig, TrainConfig
from hemseg_cli.core.cases import Case
from hemseg_cli.core.errors import Stopped
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training import tune_prediction as tuning
from hemseg_cli.training.train import train
from hemseg_cli.training.tune_prediction import (
    TunedSettings,
    count_passes,
    store_settings,
    tune_prediction,
)
from tests.inference.small_model import config_in, make_run, scan, truth
from tests.training.small_run import (
    exit_code,
    kill_child,
    marked,
    small_config,
    small_data,
    start_child,
    wait_for,
    write_config,
)

SPECK = (5, 5, 1)  # a bright voxel of 0.125 mL that is no hemorrhage


def cases_in(config: Config, count: int = 3, *, speck: bool = False) -> list[Case]:
    cases = []
    for number in range(count):
        image = scan(seed=number)
        if speck:
            image.array[SPECK] = 70
        case = Case(
            f"s{number}",
            patient=f"p{number}",
            split="val",
            label=f"s{number}-label.nii.gz",
            image=f"s{number}.nii.gz",
        )
        write_volume(config.data.folder / case.image, image)
        write_volume(
            config.data.folder / case.label,
            Volume(truth(image.array.shape).astype(np.uint8), image.affine),
        )
        cases.append(case)
    return cases


def tuned_by(checkpoint: Path, config: Config, cases: list[Case]) -> TunedSettings:
    *steps, last = tune_prediction(checkpoint, config, cases, torch.device("cpu"))
    assert steps == [None] * len(cases) * tuning.count_passes(config)
    assert last is not None
    return last


def test_threshold_that_finds_the_hemorrhage_is_chosen(tmp_path: Path) -> None:
    # 70 HU is 0.75 in the window: the logit is 8 (0.75 - 0.5 - 0.3) = -0.4, the probability 0.401.
    config = config_in(tmp_path)
    chosen = tuned_by(make_run(tmp_path, shift=0.3), config, cases_in(config))
    assert chosen.settings.threshold in (0.3, 0.4)
    assert (chosen.dice_before, chosen.dice, chosen.scans) == (0.0, 1.0, 3)


def test_smallest_component_that_drops_false_pieces_is_chosen(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    cases = cases_in(config, speck=True)
    chosen = tuned_by(make_run(tmp_path), config, cases)
    assert chosen.settings.min_component_ml in (0.25, 0.5)
    found = int(truth((24, 20, 6)).sum())
    assert chosen.dice_before == pytest.approx(2 * found / (2 * found + 1))
    assert chosen.dice == 1.0


def test_what_gains_nothing_is_not_chosen_and_what_the_user_set_is_kept(tmp_path: Path) -> None:
    config = config_in(tmp_path, predict=PredictConfig(threshold=0.5, overlap=0.1))
    checkpoint = make_run(tmp_path, shift=0.3)
    chosen = tuned_by(checkpoint, config, cases_in(config))
    assert (
        chosen.settings.threshold,
        chosen.settings.overlap,
        chosen.settings.tta,
        chosen.settings.weighting,
    ) == (
        0.5,
        0.1,
        False,
        "constant",
    )
    assert chosen.dice == chosen.dice_before == 0.0


def test_mirrored_copies_are_chosen_where_they_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Predictor.infer

    def infer(self: Predictor, volume: Volume, head: object = None) -> object:
        if not self.settings.tta:
            volume = Volume(np.full_like(volume.array, 30), volume.affine)  # finds nothing
        return real(self, volume)

    monkeypatch.setattr(Predictor, "infer", infer)
    config = config_in(tmp_path)
    chosen = tuned_by(make_run(tmp_path), config, cases_in(config, 1))
    assert (chosen.settings.tta, chosen.dice_before, chosen.dice) == (True, 0.0, 1.0)
    mask_only = config_in(tmp_path, train=TrainConfig(choose="mask"))
    assert not tuned_by(make_run(tmp_path), mask_only, cases_in(config, 1)).settings.tta


def test_mirrored_copies_are_not_tried_where_training_mirrored_nothing(tmp_path: Path) -> None:
    plain = TrainConfig(augment=AugmentConfig(mirror_p=(0.0, 0.0, 0.0)))
    left_right = TrainConfig(augment=AugmentConfig(mirror_p=(0.5, 0.0, 0.0)))
    assert count_passes(config_in(tmp_path, train=left_right)) == 4
    assert count_passes(config_in(tmp_path, train=plain)) == 3


def test_scans_on_other_axes_are_turned_to_those_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, train=TrainConfig(choose="mask"))
    (case,) = cases_in(config, 1)
    straight = tuned_by(make_run(tmp_path), config, [case])

    # The same scan as L-P-S files, as SimpleITK writes them.
    for name in (case.image, case.label):
        volume = read_volume(config.data.folder / name)
        turned = volume.affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
        turned[:3, 3] += volume.affine[:3, :2] @ (np.array(volume.array.shape[:2]) - 1)
        write_volume(config.data.folder / name, Volume(volume.array[::-1, ::-1], turned))
    real, seen = Predictor.infer, []

    def infer(self: Predictor, volume: Volume, head: object = None) -> object:
        seen.append(volume)
        return real(self, volume)

    monkeypatch.setattr(Predictor, "infer", infer)
    chosen = tuned_by(make_run(tmp_path), config, [case])
    assert chosen.dice == straight.dice > 0
    np.testing.assert_array_equal(seen[0].array, scan(seed=0).array)


def test_what_takes_too_long_is_not_tried(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    *steps, chosen = tune_prediction(
        make_run(tmp_path), config, cases_in(config, 1), torch.device("cpu"), seconds=0.0
    )
    assert steps == [None]  # the way of the training alone, of four
    assert chosen is not None
    assert not chosen.settings.tta


def test_stored_settings_are_those_that_prediction_uses(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    checkpoint = make_run(tmp_path, shift=0.3)
    before = read_checkpoint(checkpoint)
    chosen = tuned_by(checkpoint, config, cases_in(config))
    store_settings(checkpoint, chosen.settings)
    assert Predictor.load([checkpoint], config.predict, device="cpu").settings == chosen.settings
    after = read_checkpoint(checkpoint)
    own = {"model": None, "predict": None, "tuned": None}
    assert {**after, **own} == {**before, **own}
    assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())


def test_training_stores_its_tuning_and_survives_a_stop_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_data(tmp_path)
    trained = train(small_config(tmp_path, "train.epochs=1"), run="chosen")
    assert set(read_checkpoint(trained.run.checkpoint("best"))["predict"]) == {
        "overlap",
        "tta",
        "weighting",
        "threshold",
        "min_component_ml",
        "crop",
        "window",
        "precision",
        "intracranial",
    }
    assert "prediction settings chosen on 2 val scans" in trained.run.log_file.read_text()

    real = tuning._dice_of

    def interrupted(*arguments: object) -> list[float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(tuning, "_dice_of", interrupted)
    with pytest.raises(Stopped, match="is trained: hemseg train --resume --run stopped") as stopped:
        train(small_config(tmp_path, "train.epochs=1"), run="stopped")
    assert stopped.value.exit_code == 143
    run = tmp_path / "runs" / "stopped" / "checkpoints"
    assert read_checkpoint(run / "last.pt")["progress"]["finished"]
    assert "min_component_ml" in read_checkpoint(run / "best.pt")["predict"]
    assert "tuned" not in read_checkpoint(run / "best.pt")


def test_run_stopped_while_settings_are_chosen_is_completed_by_resume_and_by_the_same_command(
    tmp_path: Path,
) -> None:
    small_data(tmp_path)
    config = small_config(tmp_path, "train.epochs=1")
    file, marker = str(write_config(tmp_path, config)), tmp_path / "marker"
    for name, again in (("a", ["--resume"]), ("b", [])):
        marker.unlink(missing_ok=True)
        command = ["train", "--config", file, "--run", name]
        child = start_child(
            command,
            tmp_path / "out",
            before=lambda: setattr(tuning, "_dice_of", marked(tuning._dice_of, marker, call=2)),
        )
        wait_for(marker.exists, child)
        assert kill_child(child, signal.SIGTERM) == 143, (tmp_path / "out").read_text()
        best = tmp_path / "runs" / name / "checkpoints" / "best.pt"
        weights = read_checkpoint(best)["model"]
        assert "tuned" not in read_checkpoint(best)

        assert exit_code(start_child([*command, *again], tmp_path / "out")) == 0
        done = read_checkpoint(best)
        assert done["tuned"]
        assert all(torch.equal(done["model"][key], value) for key, value in weights.items())

        # Nothing is left: both are refused, with what to type.
        code = exit_code(start_child([*command, *again], tmp_path / "out"))
        assert code == (1 if again else 2)
        assert f"hemseg predict --run {name}" in (tmp_path / "out").read_text()
