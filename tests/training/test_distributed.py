"""Two real gloo processes on 127.0.0.1 against one, at the same total batch."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training.batches import BatchPlan, shared_batch_size
from hemseg_cli.training.distributed import Processes, backend_for
from hemseg_cli.training.train import train
from tests.torchrun import run_processes, run_two
from tests.training.small_run import assert_same_state, small_config, write_config

SMALL = ("train.patches_per_scan=2", "train.precision=float32")
IN_PARTS = ("train.batch_size=4", "train.micro_batch=1", "train.loss.dice_over_batch=false")


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (("train.batch_size=2", "train.loss.dice_over_batch=true"), 6),
        (("train.batch_size=2", "train.loss.dice_over_batch=false"), 6),
        (IN_PARTS, 4),
    ],
    ids=["Dice over the batch", "Dice of each patch", "in parts"],
)
def test_two_processes_train_what_one_does_at_the_same_total_batch_and_resume_exactly(
    place: Path, settings: tuple[str, ...], steps: int
) -> None:
    config = small_config(place, *SMALL, *settings)
    file = str(write_config(place, config))
    talk = run_two("train", "--config", file, "--run", "two", "--json")
    assert json.loads(talk)["epochs"] == 2  # one object: the second process says nothing
    one = train(config, run="one")
    run = RunDirectory(config.runs.root / "two")
    ours, theirs = (read_checkpoint(directory.checkpoint("last")) for directory in (one.run, run))
    for key, weight in ours["network"].items():
        torch.testing.assert_close(theirs["network"][key], weight, rtol=1e-3, atol=1e-5)
    for column, tolerance in (("train_loss", 1e-4), ("val_loss", 1e-3)):
        expected = [row[column] for row in ours["progress"]["history"]]
        assert [row[column] for row in theirs["progress"]["history"]] == pytest.approx(
            expected, rel=tolerance
        )
    assert ours["step"] == theirs["step"] == steps

    copy = RunDirectory(config.runs.root / "resumed")
    shutil.copytree(run.path, copy.path)
    copy.checkpoint("previous").replace(copy.checkpoint("last"))
    assert not read_checkpoint(copy.checkpoint("last"))["progress"]["finished"]
    run_two("train", "--config", file, "--run", "resumed", "--resume")
    assert_same_state(run, copy)


@pytest.mark.parametrize(
    ("patches", "batch", "size"), [(12, 4, 2), (13, 4, 2), (15, 4, 2), (3, 4, 4), (7, 3, 1)]
)
def test_processes_share_every_batch_evenly_and_without_overlap(
    patches: int, batch: int, size: int
) -> None:
    plans = [BatchPlan(patches, batch, Processes(rank, size)) for rank in range(size)]
    seen: list[int] = []
    for number in range(len(plans[0])):
        shares = [plan.indices(number) for plan in plans]
        assert len({len(share) for share in shares}) == 1
        assert shares[0]
        seen += [index for share in shares for index in share]
    assert (
        len(seen) == len(set(seen)) == patches - patches % size if len(plans[0]) else patches < size
    )


@pytest.mark.parametrize(
    ("device", "processes", "gpus", "backend"),
    [
        ("cuda", 4, 4, "cpu:gloo,cuda:nccl"),
        ("cuda", 2, 1, "gloo"),
        ("cpu", 2, 0, "gloo"),
    ],
)
def test_processes_that_share_a_gpu_do_without_nccl(
    device: str, processes: int, gpus: int, backend: str
) -> None:
    assert backend_for(device, processes, gpus) == backend


@pytest.mark.parametrize(
    ("batch", "processes", "total"), [(2, 1, 2), (2, 2, 2), (2, 4, 4), (3, 2, 4), (8, 3, 9)]
)
def test_batch_is_raised_to_as_many_patches_for_each_process(
    batch: int, processes: int, total: int
) -> None:
    assert shared_batch_size(batch, processes) == total


@pytest.mark.parametrize(
    "settings",
    [(), ("train.loss.deep_supervision=0",)],
    ids=["the default batch of 2", "heads without a loss"],
)
def test_four_processes_take_the_default_batch_and_train_what_one_does(
    place: Path, settings: tuple[str, ...]
) -> None:
    # 12 patches: three whole batches of four.
    common = ("train.patches_per_scan=4", "train.precision=float32", "train.epochs=1", *settings)
    common = (*common, "train.choose=none")
    four = small_config(place, *common, "train.batch_size=2")
    file = str(write_config(place, four))
    assert json.loads(run_processes(4, "train", "--config", file, "--run", "four", "--json"))
    one = train(small_config(place, *common, "train.batch_size=4"), run="one")
    ours, theirs = (
        read_checkpoint(RunDirectory(four.runs.root / name).checkpoint("last"))
        for name in ("one", "four")
    )
    assert one.epochs == 1
    assert ours["step"] == theirs["step"] > 0
    for key, weight in ours["network"].items():
        torch.testing.assert_close(theirs["network"][key], weight, rtol=1e-3, atol=1e-5)
