"""A batch in parts has the gradient of the whole batch, or is refused."""

from pathlib import Path

import pytest
import torch

from hemseg_cli.config import Config
from hemseg_cli.core.errors import UsageError
from hemseg_cli.training.batches import Batch
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.loop import StepDone, run_epochs
from hemseg_cli.training.micro_batch import add_gradient, micro_batch
from hemseg_cli.training.setup import check_network, make_setup, make_state
from tests.training.small_run import small_config

CPU = torch.device("cpu")
EACH_PATCH = (
    "train.loss.dice_over_batch=false",
    "train.precision=float32",
    "train.batch_size=5",
    "train.patches_per_scan=5",
)
SMALL_UNET = ("train.model=unet", "train.network={channels=[4, 8], strides=[[2, 2, 2]]}")
SMALL_VNET = ("train.model=vnet", "train.patch=[32, 16, 16]", "train.network={}")


def gradient_of(config: Config) -> tuple[float, torch.Tensor]:
    setup = make_setup(config, data_set_cases(config), CPU, Processes())
    state = make_state(config, setup, CPU, Processes())
    patches = [setup.loading.patches_of(0)[index] for index in range(5)]
    images, labels = (torch.stack([patch[key] for patch in patches]) for key in ("image", "label"))
    loss = float(add_gradient(state, Batch(images, labels, []), setup.loss))
    return loss, torch.cat(
        [weight.grad.flatten() for weight in state.network.parameters() if weight.grad is not None]
    )


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_parts_have_the_loss_and_the_gradient_of_the_whole_batch(
    place: Path, micro_batch: int
) -> None:
    whole, part = (
        gradient_of(
            small_config(place, *EACH_PATCH, f"train.micro_batch={number}", network=SMALL_UNET)
        )
        for number in (5, micro_batch)
    )
    assert part[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(part[1], whole[1], rtol=1e-3, atol=1e-6)
    assert whole[1].abs().max() > 1e-4


def test_parts_pass_through_the_network_one_after_the_other(place: Path) -> None:
    config = small_config(place, *EACH_PATCH, "train.micro_batch=2", network=SMALL_UNET)
    setup = make_setup(config, data_set_cases(config), CPU, Processes())
    state = make_state(config, setup, CPU, Processes())
    sizes: list[int] = []
    state.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert isinstance(next(run_epochs(state, setup, Processes())), StepDone)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("settings", "network", "reason"),
    [
        (("train.loss.dice_over_batch=true",), SMALL_UNET, "the Dice is over the batch"),
        (("train.loss.dice_over_batch=false",), SMALL_VNET, "vnet normalises over the batch"),
    ],
)
def test_patches_that_depend_on_each_other_are_not_taken_apart(
    place: Path, settings: tuple[str, ...], network: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(
        UsageError, match=rf"train\.micro_batch = 1 with train\.batch_size = 2: {reason}"
    ):
        check_network(small_config(place, *settings, "train.micro_batch=1", network=network))
    check_network(small_config(place, *settings, "train.micro_batch=2", network=network))


def test_a_cpu_takes_the_published_batch_in_parts_of_four_patches_and_a_gpu_takes_it_whole(
    place: Path,
) -> None:
    config = small_config(
        place,
        "train.recipe=paper",
        network=("train.model=unet", "train.patch=[256, 256, 16]", "train.batch_size=16"),
    )
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.InstanceNorm3d(1))
    assert micro_batch(config.train, network, CPU) == 4
    assert micro_batch(config.train, network, torch.device("cuda")) == 16
    assert micro_batch(config.train, network.append(torch.nn.BatchNorm3d(1)), CPU) == 16
