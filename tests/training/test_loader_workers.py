"""The number of loader workers, and that measuring for it changes nothing."""

from pathlib import Path

import pytest
import torch

from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.loader_workers import (
    loader_workers,
    measure,
    measured_workers,
    workers_needed,
)
from hemseg_cli.training.setup import make_setup, make_state
from tests.training.small_run import small_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cut_s", "patches_per_s", "most", "workers"),
    [
        (0.05, 20.0, 15, 2),  # one core is just busy, half as much to spare
        (0.05, 2.0, 15, 1),
        (0.2, 20.0, 15, 6),
        (0.2, 100.0, 15, 15),
        (0.0, 100.0, 15, 1),
    ],
)
def test_workers_cut_as_many_patches_as_the_network_takes(
    cut_s: float, patches_per_s: float, most: int, workers: int
) -> None:
    assert workers_needed(cut_s, patches_per_s, most=most) == workers


@pytest.mark.parametrize(
    "network",
    [
        ("train.model=dynunet",),
        # Batch statistics, which each forward pass moves.
        (
            "train.model=unet",
            "train.network={channels=[4, 8], strides=[2], num_res_units=0, norm='batch'}",
        ),
    ],
    ids=["dynunet", "batch norm"],
)
def test_measuring_leaves_the_training_as_it_was(place: Path, network: tuple[str, ...]) -> None:
    small = (
        "train.network={channels=[4, 4, 8], strides=[1, [2, 2, 1], 2], "
        "kernels=[[3, 3, 1], 3, 3], supervised_levels=1}",
    )
    config = small_config(place, network=(*network, *(small if len(network) == 1 else ())))
    setup = make_setup(config, data_set_cases(config), CPU, Processes())
    state = make_state(config, setup, CPU, Processes())
    before = {key: value.clone() for key, value in state.network.state_dict().items()}
    cut_s, patches_per_s = measure(state, setup)
    assert cut_s > 0
    assert patches_per_s > 0
    assert all(torch.equal(before[key], value) for key, value in state.network.state_dict().items())
    assert all(weight.grad is None for weight in state.network.parameters())
    assert state.progress.step == 0


def test_what_the_user_sets_is_not_measured_and_a_cpu_needs_none(place: Path) -> None:
    config = small_config(place)  # compute.workers = 0
    setup = make_setup(config, data_set_cases(config), CPU, Processes())
    state = make_state(config, setup, CPU, Processes())
    assert measured_workers(state, setup, Processes()) is setup
    unset = config.model_copy(
        update={"compute": config.compute.model_copy(update={"workers": None})}
    )
    assert loader_workers(unset, CPU, Processes()) == 0
    assert loader_workers(unset, torch.device("cuda"), Processes()) >= 1
