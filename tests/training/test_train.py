import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.run_directory import RunDirectory, open_run
from hemseg_cli.inference.ensemble import EnsembleNetwork
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.models.checkpoint import network_of, read_checkpoint
from hemseg_cli.training import loop, validation
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.scans import training_cases
from hemseg_cli.training.setup import make_setup, make_state
from hemseg_cli.training.train import TrainResult, train
from tests.training.small_run import (
    SMALL_DYNUNET,
    assert_same_state,
    exit_code,
    kill_child,
    marked,
    small_config,
    small_data,
    start_child,
    wait_for,
    write_config,
)

# Forking a process that has threads (torch's idle ones) warns from Python 3.12 on; with one compute
# thread it is safe.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    console.configure(quiet=True)
    root = tmp_path_factory.mktemp("training")
    small_data(root)
    return root


@pytest.fixture(scope="module")
def straight(place: Path) -> TrainResult:
    return train(small_config(place), run="straight")


def rows_of(run: RunDirectory) -> list[dict[str, str]]:
    with run.history_file.open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_leaves_a_complete_run_directory(straight: TrainResult) -> None:
    run = straight.run
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    assert all(
        0 <= float(row["val_dice"]) <= 1 and float(row["train_loss"]) > 0 for row in rows_of(run)
    )
    best = read_checkpoint(run.checkpoint("best"))
    assert (
        max(float(row["val_dice"]) for row in rows_of(run))
        == best["val_dice"]
        == straight.best_dice
    )
    assert rows_of(run)[straight.best_epoch - 1]["best"] == "1"
    assert network_of(best)(torch.zeros(1, 2, 16, 16, 4)).shape == (1, 1, 16, 16, 4)
    environment = json.loads(run.environment_file.read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert run.config_file.is_file()
    assert "epoch 2/2" in run.log_file.read_text()
    assert straight.payload()["next"] == "hemseg predict --run straight"


def test_checkpoints_carry_what_the_recipe_pads_with(place: Path, straight: TrainResult) -> None:
    paper = train(small_config(place, "train.recipe=paper", "train.epochs=1"), run="paper")
    for run, padding, values in ((straight.run, "air", (-1.0, -1.0)), (paper.run, "zero", (0.0,))):
        for which in ("best", "last"):
            assert read_checkpoint(run.checkpoint(which))["padding"] == padding
        (member,) = Predictor.load([run.checkpoint("best")], PredictConfig(), device="cpu").networks
        assert isinstance(member, EnsembleNetwork)
        assert member.padding == values


def test_same_seed_trains_the_same_weights_whatever_the_number_of_workers(
    place: Path, straight: TrainResult
) -> None:
    again = train(small_config(place, "compute.workers=2"), run="two-workers")
    assert_same_state(straight.run, again.run)


def test_another_seed_trains_other_weights(place: Path, straight: TrainResult) -> None:
    other = train(small_config(place, "train.seed=4", "train.epochs=1"), run="other-seed")
    assert rows_of(other.run)[0]["train_loss"] != rows_of(straight.run)[0]["train_loss"]


@pytest.mark.parametrize(
    ("phase", "call", "number", "code"),
    [
        ("train_step", 3, signal.SIGTERM, 143),
        ("train_step", 7, signal.SIGINT, 130),
        ("validation", 2, signal.SIGTERM, 143),
        ("validation", 3, signal.SIGINT, 130),
        ("train_step", 8, signal.SIGKILL, -9),
        ("validation", 4, signal.SIGKILL, -9),
    ],
)
def test_stopped_anywhere_and_resumed_is_bitwise_the_straight_run(
    place: Path,
    tmp_path: Path,
    straight: TrainResult,
    phase: str,
    call: int,
    number: signal.Signals,
    code: int,
) -> None:
    marker, name = tmp_path / "marker", f"stopped-{phase}-{number.name}"
    config = small_config(
        place, "train.save_minutes=0" if number == signal.SIGKILL else "train.save_minutes=100"
    )

    def mark() -> None:
        module, function = (
            (loop, "train_step") if phase == "train_step" else (validation, "_validate_case")
        )
        setattr(module, function, marked(getattr(module, function), marker, call=call))

    child = start_child(
        ["train", "--config", str(write_config(place, config)), "--run", name],
        tmp_path / "output",
        before=mark,
    )
    wait_for(marker.exists, child)
    assert kill_child(child, number) == code, (tmp_path / "output").read_text()
    stopped = read_checkpoint(open_run(config.runs.root, name).checkpoint("last"))["progress"]
    assert not stopped["finished"]
    assert 5 * stopped["epoch"] + stopped["batch"] >= min(call - 1, 5)
    resumed = train(config, run=name, resume=True)
    assert_same_state(straight.run, resumed.run)
    assert len(rows_of(resumed.run)) == 2


def test_resumed_run_keeps_its_arithmetic(place: Path) -> None:
    config, device = small_config(place, "train.precision=float32"), torch.device("cpu")
    moved = make_state(
        config, make_setup(config, data_set_cases(config), device, Processes()), device, Processes()
    )
    assert moved.precision is torch.float32
    moved.restore({**moved.resume_checkpoint(), "precision": "bfloat16"})
    assert moved.precision is torch.bfloat16


def test_resume_of_a_finished_run_is_refused(place: Path, straight: TrainResult) -> None:
    with pytest.raises(HemsegError, match=r"straight is finished: 2 epochs"):
        train(small_config(place), run="straight", resume=True)
    assert straight.epochs == 2


def test_resume_with_another_config_names_the_keys(place: Path, straight: TrainResult) -> None:
    with pytest.raises(
        HemsegError,
        match=r"train\.augment\.noise_p: 0\.15 then, 0\.5 now\n  train\.lr: 0\.002 then, 0\.1 now",
    ):
        train(
            small_config(place, "train.lr=0.1", "train.augment.noise_p=0.5"),
            run="straight",
            resume=True,
        )
    assert straight.epochs == 2


def test_resume_of_another_model_is_refused(place: Path, straight: TrainResult) -> None:
    other = small_config(
        place, network=("train.model=unet", "train.network={channels=[4, 8], strides=[2]}")
    )
    with pytest.raises(
        HemsegError, match=r"last\.pt is a checkpoint of dynunet, not of train\.model = unet"
    ):
        train(other, run=straight.run.name, resume=True)


def test_trained_run_is_not_trained_over(place: Path, straight: TrainResult) -> None:
    with pytest.raises(UsageError, match="straight has been trained already") as caught:
        train(small_config(place), run=straight.run.name)
    assert "hemseg predict --run straight" in caught.value.hint


def test_second_train_in_one_run_is_refused_with_the_pid_of_the_first(
    place: Path, tmp_path: Path
) -> None:
    marker, config = tmp_path / "marker", small_config(place)
    child = start_child(
        ["train", "--config", str(write_config(place, config)), "--run", "locked"],
        tmp_path / "output",
        before=lambda: setattr(loop, "train_step", marked(loop.train_step, marker, call=1)),
    )
    wait_for(marker.exists, child)
    with pytest.raises(HemsegError, match=f"is being trained by process {child}"):
        train(config, run="locked", resume=True)
    assert kill_child(child, signal.SIGTERM) == 143


def test_group_signal_does_not_take_the_loader_workers_from_the_batch(
    place: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    config = small_config(place, "compute.workers=1")
    child = start_child(
        ["train", "--config", str(write_config(place, config)), "--run", "group"],
        tmp_path / "output",
        before=lambda: setattr(loop, "train_step", marked(loop.train_step, marker, call=2)),
    )
    wait_for(marker.exists, child)
    os.killpg(child, signal.SIGTERM)
    assert exit_code(child) == 143, (tmp_path / "output").read_text()
    assert (
        read_checkpoint(config.runs.root / "group" / "checkpoints" / "last.pt")["progress"]["batch"]
        >= 2
    )


@pytest.mark.parametrize(
    "assignments",
    [
        ("train.model=unet", "train.network={channels=[4, 8], strides=[[2, 2, 1]]}"),
        (
            "train.model=attention-unet",
            "train.network={channels=[4, 8, 8], strides=[[2, 2, 1], 2]}",
        ),
        (
            "train.model=segresnet",
            "train.network={init_filters=8, blocks_down=[1, 1], blocks_up=[1]}",
        ),
        (
            "train.model=unetr",
            "train.network={feature_size=4, hidden_size=12, mlp_dim=16, num_heads=2}",
        ),
    ],
)
def test_every_network_trains_through_the_same_call(
    place: Path, assignments: tuple[str, ...]
) -> None:
    assignments = (
        *assignments,
        f"train.patch={[32, 32, 16] if 'train.model=unetr' in assignments else [16, 16, 8]}",
    )
    result = train(
        small_config(place, "train.epochs=1", "train.patches_per_scan=1", network=assignments)
    )
    checkpoint = read_checkpoint(result.run.checkpoint("best"))
    assert (result.model, checkpoint["model_name"], checkpoint["in_channels"]) == (
        result.model,
        result.model,
        2,
    )
    assert network_of(checkpoint)(torch.zeros(1, 2, *checkpoint["patch"])).shape == (
        1,
        1,
        *checkpoint["patch"],
    )


def test_minutes_end_the_training_with_a_validated_checkpoint(place: Path) -> None:
    result = train(
        small_config(place, "train.epochs=100000", "train.max_minutes=0.01"), run="minutes"
    )
    last = rows_of(result.run)[-1]
    assert last["val_dice"] != ""
    assert result.epochs < 100000
    assert read_checkpoint(result.run.checkpoint("last"))["progress"]["finished"]
    # The schedule follows the minutes, as the epochs have hardly begun.
    assert read_checkpoint(result.run.checkpoint("last"))["schedule"]["fraction"] > 0.05


def test_patience_ends_the_training(place: Path) -> None:
    # A rate of nothing changes nothing: no validation is better than the first.
    result = train(
        small_config(
            place,
            "train.lr=1e-30",
            "train.epochs=50",
            "train.patience=2",
            "train.patches_per_scan=1",
        ),
        run="patience",
    )
    assert (result.epochs, result.best_epoch) == (3, 1)


def test_tensorboard_events_are_written_where_asked_for(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(
        small_config(place, "train.trackers=['tensorboard']", "train.epochs=1"), run="board"
    )
    events: Any = EventAccumulator(str(result.run.history_file.parent / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("val_dice")] == [
        pytest.approx(result.best_dice, rel=1e-6)
    ]


def test_folds_keep_a_patient_in_one_and_cover_every_scan(place: Path) -> None:
    seen: list[str] = []
    for fold in range(3):
        cases = training_cases(small_config(place, f"train.fold={fold}", "train.folds=3"))
        kept, held_out = cases.train, cases.val
        assert not {case.patient for case in kept} & {case.patient for case in held_out}
        assert len(kept) + len(held_out) == 5
        seen += [case.scan for case in held_out]
    assert sorted(seen) == ["train0", "train1", "train2", "val3", "val4"]
    with pytest.raises(UsageError, match=r"train\.fold = 3: folds are 0 to 2"):
        training_cases(small_config(place, "train.fold=3", "train.folds=3"))


def test_small_network_is_the_one_described(straight: TrainResult) -> None:
    assert SMALL_DYNUNET[0] == "train.model=dynunet"
    assert read_checkpoint(straight.run.checkpoint("best"))["model_config"]["channels"] == [4, 4, 8]
