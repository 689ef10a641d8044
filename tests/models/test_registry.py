import itertools
import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from hemseg_cli.core.errors import UsageError
from hemseg_cli.models.registry import (
    MODELS,
    build_network,
    check_patch,
    full_config,
    require_model,
)
from hemseg_cli.models.weights import without_memory

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": [4, 8, 8], "strides": [[2, 2, 1], 2], "num_res_units": 1},
    "vnet": {},
    "segresnet": {"blocks_down": [1, 1], "blocks_up": [1]},
    "attention-unet": {"channels": [4, 8, 8], "strides": [[2, 2, 1], 2]},
    "unetr": {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2},
    "swin-unetr": {"feature_size": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "dynunet": {
        "channels": [4, 4, 8],
        "strides": [1, [2, 2, 1], 2],
        "kernels": [[3, 3, 1], 3, 3],
        "supervised_levels": 1,
    },
}
SMALL["dynunet-res"] = SMALL["dynunet"]
SMALL["segresnet-2d"] = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
NETWORKS = [name for name, model in MODELS.items() if model.factory]


@pytest.mark.parametrize("name", [name for name in NETWORKS if MODELS[name].parameters])
def test_default_network_has_the_listed_number_of_parameters(name: str) -> None:
    with without_memory():
        network = build_network(name, {}, 1)
    assert sum(weight.numel() for weight in network.parameters()) == require_model(name).parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [("unet", 19.2), ("vnet", 45.6), ("segresnet", 1.2), ("attention-unet", 23.6)],
)
def test_parameters_of_the_published_networks(name: str, millions: float) -> None:
    assert round((require_model(name).parameters or 0) / 1e6, 1) == millions


@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_valid_patch_goes_through_and_the_gradient_comes_back(name: str) -> None:
    small = SMALL.get(name, {})
    i, j, k = require_model(name).patch_multiple(small)
    patch = (2 * i, j, k)
    check_patch(name, small, patch)
    network = build_network(name, full_config(name, small, patch), 2)
    output = network.train()(torch.randn(1, 2, *patch))
    outputs = output if isinstance(output, list) else [output]
    assert outputs[0].shape == (1, 1, *patch)
    sum(level.square().mean() for level in outputs).backward()
    idle = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not idle or not require_model(name).convolutional, (
        idle
    )  # DistributedDataParallel is told to expect idle weights there
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 2, *patch)).shape == (1, 1, *patch)


def test_deep_supervision_lists_full_resolution_first_then_each_coarser_level() -> None:
    config = {
        "channels": [4, 4, 8, 8],
        "strides": [1, [2, 2, 1], 2, 2],
        "kernels": [3, 3, 3, 3],
        "supervised_levels": 2,
    }
    outputs = build_network("dynunet", config, 1).train()(torch.randn(1, 1, 16, 16, 8))
    assert [tuple(level.shape[2:]) for level in outputs] == [(16, 16, 8), (8, 8, 8), (4, 4, 4)]


def test_deep_supervision_gives_monais_outputs_before_they_are_upsampled() -> None:
    from monai.networks.nets.dynunet import DynUNet

    network = build_network("dynunet", SMALL["dynunet"], 1).train()
    image = torch.randn(1, 1, 8, 8, 4)
    ours = network(image)
    # [n, level, c, k, i, j], stacked and upsampled: MONAI's network, given slices first as ours
    # gives it.
    theirs = DynUNet.forward(network, image.permute(0, 1, 4, 2, 3).contiguous()).permute(
        0, 1, 2, 4, 5, 3
    )
    assert torch.equal(ours[0], theirs[:, 0])
    assert torch.equal(torch.nn.functional.interpolate(ours[1], (8, 8, 4)), theirs[:, 1])


@pytest.mark.parametrize("name", ["unet", "segresnet", "dynunet", "attention-unet", "segresnet-2d"])
def test_patch_rule_agrees_with_the_network_itself(name: str) -> None:
    network = build_network(name, SMALL[name], 1).train()
    for patch in itertools.product((4, 6, 8), (8,), (1, 2, 3)):
        try:
            output = network(torch.zeros(1, 1, *patch))
            fits = (output[0] if isinstance(output, list) else output).shape[2:] == patch
        except (RuntimeError, ValueError):
            fits = False
        try:
            check_patch(name, SMALL[name], patch)
        except UsageError:
            continue
        assert fits, patch


@pytest.mark.parametrize(
    ("name", "patch", "nearest"),
    [
        ("unet", (100, 256, 16), "[96, 256, 16]"),
        ("unet", (16, 16, 16), "[32, 16, 16]"),
        ("vnet", (256, 256, 10), "[256, 256, 16]"),
        ("segresnet", (250, 250, 15), "[248, 248, 16]"),
        ("swin-unetr", (128, 128, 16), "[128, 128, 32]"),
        ("unetr", (256, 256, 1), "[256, 256, 16]"),
        ("dynunet", (256, 250, 14), "[256, 256, 16]"),
        ("segresnet-2d", (250, 256, 3), "[248, 256, 3]"),
    ],
)
def test_impossible_patch_offers_the_nearest_valid_one(
    name: str, patch: tuple[int, int, int], nearest: str
) -> None:
    with pytest.raises(
        UsageError, match=f"train.patch = .*{name} takes sizes that are multiples of"
    ) as caught:
        check_patch(name, {}, patch)
    assert f"--set train.patch={nearest} " in caught.value.hint
    check_patch(name, {}, [int(n) for n in nearest.strip("[]").split(",")])


def test_unetr_is_built_for_the_patch() -> None:
    assert full_config("unetr", {}, (96, 96, 32))["img_size"] == [96, 96, 32]
    assert require_model("unetr").fixed_patch
    assert not require_model("unet").fixed_patch


def test_multiple_of_the_default_dynunet_keeps_slices_apart_for_three_levels() -> None:
    assert require_model("dynunet").patch_multiple({}) == (32, 32, 4)
    assert math.prod(require_model("swin-unetr").patch_multiple({})) == 32**3


def test_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(
        UsageError, match="'attention_unet': no such model; did you mean attention-unet"
    ):
        require_model("attention_unet")


def test_unknown_network_setting_offers_the_nearest() -> None:
    with pytest.raises(
        UsageError,
        match=r"train\.network\.chanels: dynunet has no such setting; did you mean channels",
    ):
        build_network("dynunet", {"chanels": [4]}, 1)


def test_impossible_network_setting_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unet cannot be built with .*'channels': \[4\]"):
        build_network("unet", {"channels": [4]}, 1)
    with pytest.raises(UsageError, match=r"dynunet cannot be built with .* 3, 2 and 3 levels"):
        build_network("dynunet", {**SMALL["dynunet"], "strides": [1, 2]}, 1)


def test_vnet_names_the_numbers_of_channels_it_takes() -> None:
    with pytest.raises(UsageError, match="vnet takes 1, 2, 4, 8, 16 input channels, not 3"):
        build_network("vnet", {}, 3)


def test_nnunet_is_listed_and_not_built_here() -> None:
    assert MODELS["nnunet"].reference_dice == 78.99
    with pytest.raises(UsageError, match="nnunet has its own trainer"):
        build_network("nnunet", {}, 1)


def test_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, hemseg_cli.models.registry\n"
        "print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_residual_dynunet_is_monais_with_residual_blocks() -> None:
    from monai.networks.blocks.dynunet_block import UnetResBlock

    network = build_network("dynunet-res", SMALL["dynunet-res"], 1)
    blocks = [module for module in network.modules() if isinstance(module, UnetResBlock)]
    assert len(blocks) >= 3  # one a level
    plain = build_network("dynunet", SMALL["dynunet"], 1)
    assert not any(isinstance(module, UnetResBlock) for module in plain.modules())
