"""The size of the network by the memory of a GPU, and the estimate of what a training takes."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hemseg_cli.config import Config, load
from hemseg_cli.core import console
from hemseg_cli.models.registry import build_network, check_patch, full_config
from hemseg_cli.models.weights import without_memory
from hemseg_cli.training.device_size import (
    kept_bytes,
    say_memory,
    size_for_device,
    training_bytes,
)
from hemseg_cli.training.distributed import Processes

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the driver would say of the GPU."""
    card = SimpleNamespace(total_memory=24 * 2**30, capability=(8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: card.capability)
    return card


def _config(*assignments: str) -> Config:
    return load(assignments=assignments, environ={})


def test_large_gpus_get_nnunets_patch_and_seven_levels(card: SimpleNamespace) -> None:
    for model in ("dynunet", "dynunet-res"):
        train = size_for_device(_config(f"train.model={model}"), GPU).train
        assert (train.size, train.patch) == ("large", (320, 256, 20))
        config = full_config(model, train.network, train.patch)
        check_patch(model, config, train.patch)
        with without_memory():
            network = build_network(model, config, 1)
        assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) in (44, 45)
    card.total_memory = 16 * 2**30
    small = size_for_device(_config(), GPU).train
    assert (small.size, small.patch, small.network) == ("standard", (256, 256, 16), {})
    assert size_for_device(_config(), CPU).train.size == "standard"


@pytest.mark.parametrize(
    "assignments",
    [
        ("train.patch=[192, 192, 16]",),
        ("train.network.supervised_levels=2",),
        ("train.model=unet",),
        ("train.model=unet", "train.recipe=paper"),
        ("train.start_from=other",),
    ],
)
def test_what_the_user_states_stands(card: SimpleNamespace, assignments: tuple[str, ...]) -> None:
    config = _config(*assignments)
    assert size_for_device(config, GPU) is config


def test_size_is_kept_where_the_run_goes_on_elsewhere(card: SimpleNamespace) -> None:
    on_cpu = size_for_device(_config(), CPU)
    assert size_for_device(on_cpu, GPU) == on_cpu
    on_gpu = size_for_device(_config(), GPU)
    assert size_for_device(on_gpu, CPU) == on_gpu
    assert size_for_device(_config("train.size=standard"), GPU).train.patch == (256, 256, 16)
    assert size_for_device(_config("train.size=large"), CPU).train.patch == (320, 256, 20)


def test_kept_bytes_are_those_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # A convolution keeps its input; ReLU its output, which the next convolution keeps as well.
    arguments = {"channels": [4, 8], "strides": [1], "num_res_units": 0, "norm": None}
    weights, kept = kept_bytes("unet", {**arguments, "act": None}, 2, (8, 8, 4))
    with without_memory():
        network = build_network("unet", {**arguments, "act": None}, 2)
    assert weights == sum(weight.numel() for weight in network.parameters())
    voxels = 8 * 8 * 4
    # Down: 2 channels in. Bottom: 4 in. Up: 4 + 8 in, joined.
    assert kept == 4 * voxels * (2 + 4 + 12)


def test_memory_is_said_before_training_and_a_card_too_small_is_warned_of(
    card: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    config = size_for_device(_config(), GPU)
    say_memory(config, GPU, Processes(), 1)
    said = capsys.readouterr().err
    assert "dynunet on patches of 320 x 256 x 20, 2 at once: about " in said
    assert "of the 26 GB of cuda:0" in said

    # Half precision halves the activations; an old card computes in float32.
    in_half = training_bytes(config, 2, 1, GPU)
    card.capability = (6, 1)
    assert 1.5 < training_bytes(config, 2, 1, GPU) / in_half < 2
    card.total_memory = 4 * 10**9
    say_memory(config, GPU, Processes(), 1)
    assert "train.size=standard" in capsys.readouterr().err
    say_memory(config, CPU, Processes(), 1)
    say_memory(config, GPU, Processes(1, 2), 1)
    assert not capsys.readouterr().err


def test_estimate_is_near_to_what_torch_holds_after_a_forward_pass(tmp_path: Path) -> None:
    network = {
        "channels": [8, 16, 16],
        "strides": [1, [2, 2, 1], 2],
        "kernels": [[3, 3, 1], 3, 3],
        "supervised_levels": 1,
    }
    patch = (64, 64, 16)
    _, kept = kept_bytes("dynunet", network, 1, patch)
    held: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    real = build_network("dynunet", network, 1).train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = real(torch.zeros(1, 1, *patch))
    weights = {weight.untyped_storage().data_ptr() for weight in real.parameters()}
    measured = sum(size for place, size in held.items() if place not in weights)
    assert kept == pytest.approx(measured, rel=0.1)
    assert kept > 10 * 4 * math.prod(patch)
    del output
