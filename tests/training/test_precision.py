"""The arithmetic of a training: bfloat16 on a CPU only where its gradients are right."""

import pytest
import torch
from torch import nn

from hemseg_cli.config.schema import TrainConfig
from hemseg_cli.models.registry import build_network, full_config
from hemseg_cli.training.precision import bfloat16_gradients_hold, training_precision

CPU = torch.device("cpu")


def network_of(model: str, patch: tuple[int, int, int], channels: int) -> nn.Module:
    torch.manual_seed(0)
    return build_network(model, full_config(model, {}, patch, 1), channels)


def gradient_of(
    network: nn.Module, images: torch.Tensor, direction: torch.Tensor, precision: torch.dtype
) -> torch.Tensor:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = network(images)
    finest = output[0] if isinstance(output, list | tuple) else output
    (finest.float() * direction).sum().backward()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies bfloat16, whatever this one does."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.mark.parametrize(
    ("model", "patch", "windows", "expected"),
    [
        ("dynunet", (64, 64, 16), 3, torch.bfloat16),
        ("unet", (64, 64, 16), 3, torch.bfloat16),
        # Four voxels under kernels of five at its coarsest level.
        ("vnet", (64, 64, 16), 4, torch.float32),
        # Transformers are not followed on shapes.
        ("unetr", (64, 64, 16), 3, torch.float32),
    ],
)
@pytest.mark.usefixtures("units")
def test_auto_follows_the_gradients(
    model: str, patch: tuple[int, int, int], windows: int, expected: torch.dtype
) -> None:
    train = TrainConfig(model=model, patch=patch, windows=[(40.0, 80.0)] * windows)
    assert training_precision(train, network_of(model, patch, windows), CPU) is expected


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.usefixtures("units")
def test_what_is_asked_for_is_taken(asked: str) -> None:
    patch, windows = (64, 64, 16), [(40.0, 80.0)] * 4
    train = TrainConfig.model_validate(
        {"model": "vnet", "patch": patch, "windows": windows, "precision": asked}
    )
    network = network_of("vnet", patch, len(windows))
    assert training_precision(train, network, CPU) is getattr(torch, asked)


def test_without_units_for_bfloat16_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    train = TrainConfig(model="dynunet", patch=(64, 64, 16), windows=[(40.0, 80.0)])
    assert training_precision(train, network_of("dynunet", train.patch, 1), CPU) is torch.float32


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3, 1), (5, 5, 5)])
@pytest.mark.parametrize("size", [(3, 1, 1), (4, 2, 2), (4, 4, 1), (5, 4, 2), (5, 5, 5), (8, 2, 4)])
def test_gradients_that_hold_are_those_of_float32(
    kernel: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    torch.manual_seed(1)
    layer = nn.Conv3d(32, 32, kernel, padding=tuple(side // 2 for side in kernel), bias=False)
    if not bfloat16_gradients_hold(layer, 32, size):
        assert size[0] < kernel[0] or kernel[1] == 5, "only what is short is refused"
        return
    images, direction = torch.randn(2, 32, *size), torch.randn(2, 32, *size)
    exact = gradient_of(layer, images, direction, torch.float32)
    for _ in range(3):
        # What was freed last is what memory that nobody wrote would hold.
        torch.full((32 * 32 * 125,), 1e30)
        quick = gradient_of(layer, images, direction, torch.bfloat16)
        torch.testing.assert_close(quick, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_gradients_of_the_default_network_hold() -> None:
    network = network_of("dynunet", (64, 64, 16), 3)
    images, direction = torch.randn(2, 3, 64, 64, 16), torch.rand(2, 1, 64, 64, 16)
    exact = gradient_of(network, images, direction, torch.float32)
    quick = gradient_of(network, images, direction, torch.bfloat16)
    assert torch.equal(quick, gradient_of(network, images, direction, torch.bfloat16))
    assert torch.nn.functional.cosine_similarity(quick, exact, dim=0) > 0.98
