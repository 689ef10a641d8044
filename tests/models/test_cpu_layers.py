import copy
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.networks.blocks.convolutions import ResidualUnit
from torch import nn

from hemseg_cli.models import winograd
from hemseg_cli.models.cpu_layers import (
    ChannelGroupNorm3d,
    JoinedResidualUnit,
    OneSlopePReLU,
    ShallowConv3d,
    ShallowConvTranspose3d,
    use_cpu_layers,
    use_torchs_layers,
)
from hemseg_cli.models.registry import build_network, full_config


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The answer, and the gradients of a weighted sum of it with respect to the input and the weights."""
    x = x.clone().requires_grad_()
    answer = layer(x)
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    found = torch.autograd.grad((answer * weights).sum(), [x, *layer.parameters()])
    return [answer.detach(), *found]


def check_as_torchs(layer: nn.Module, x: torch.Tensor, kind: type[nn.Module]) -> None:
    layer, x = layer.double(), x.double()
    ours = copy.deepcopy(layer)
    use_cpu_layers(ours)
    assert type(ours) is kind
    for own, reference in zip(gradients(ours, x), gradients(layer, x), strict=True):
        torch.testing.assert_close(own, reference)


sizes = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(sizes, sizes),
    kernel=st.tuples(sizes, sizes, st.sampled_from([1, 2, 3, 5])),
    stride=st.tuples(sizes, sizes, sizes),
    padding=st.integers(0, 2),
    depth=st.integers(1, 6),
    bias=st.booleans(),
)
def test_convolution_and_its_gradients_are_torchs(
    channels: tuple[int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: int,
    depth: int,
    bias: bool,
) -> None:
    layer = nn.Conv3d(
        *channels,
        kernel,
        stride,
        padding=(1, 0, max(padding, (kernel[2] - depth + 1) // 2)),
        bias=bias,
    )
    check_as_torchs(layer, torch.randn(2, channels[0], 4, 5, depth), ShallowConv3d)


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_convolution_that_is_filtered_along_the_slices_is_torchs(depth: int) -> None:
    check_as_torchs(
        nn.Conv3d(8, 9, 3, stride=(2, 1, 1), padding=1),
        torch.randn(2, 8, 6, 5, depth),
        ShallowConv3d,
    )


def test_nothing_is_filtered_in_bfloat16_or_without_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = nn.Conv3d(8, 8, 3, padding=1)
    use_cpu_layers(layer)
    monkeypatch.setattr(winograd, "convolution", None)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 8, 6, 6, 8)).dtype is torch.bfloat16
    with torch.inference_mode():
        assert layer(torch.randn(1, 8, 6, 6, 8)).dtype is torch.float32
    with pytest.raises(TypeError):
        layer(torch.randn(1, 8, 6, 6, 8))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(sizes, sizes),
    kernel=st.tuples(st.integers(2, 3), st.integers(2, 3), st.integers(2, 3)),
    stride=st.integers(2, 3),
    padding=st.integers(0, 1),
    more=st.integers(0, 1),
    depth=st.integers(1, 4),
)
def test_transposed_convolution_and_its_gradients_are_torchs(
    channels: tuple[int, int],
    kernel: tuple[int, int, int],
    stride: int,
    padding: int,
    more: int,
    depth: int,
) -> None:
    assume((depth - 1) * stride - 2 * padding + kernel[2] + more > 0)
    layer = nn.ConvTranspose3d(*channels, kernel, stride, padding=padding, output_padding=more)
    check_as_torchs(layer, torch.randn(2, channels[0], 3, 4, depth), ShallowConvTranspose3d)


@pytest.mark.parametrize("name", ["unet", "vnet", "attention-unet"])
def test_gradients_in_bfloat16_are_near_those_of_float32(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, full_config(name, {}, [32, 32, 16]), 1).train()
    x, label = torch.randn(2, 1, 32, 32, 16), (torch.rand(2, 1, 32, 32, 16) > 0.9).float()

    def found(half: bool) -> torch.Tensor:
        network.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(x)
        nn.functional.binary_cross_entropy_with_logits(logits.float(), label).backward()
        return torch.cat(
            [
                parameter.grad.flatten()
                for parameter in network.parameters()
                if parameter.grad is not None
            ]
        )

    whole, half = found(False), found(True)
    assert half.isfinite().all()
    assert nn.functional.cosine_similarity(whole, half, dim=0) > 0.9


@pytest.mark.parametrize("depth", [2, 8], ids=["in the plane", "in space"])
@pytest.mark.parametrize(
    "options",
    [{}, {"subunits": 1}, {"subunits": 1, "last_conv_only": True}, {"bias": False}],
    ids=str,
)
def test_residual_unit_and_its_gradients_are_monais(options: dict[str, Any], depth: int) -> None:
    check_as_torchs(
        ResidualUnit(3, 2, 5, strides=2, **options),
        torch.randn(2, 2, 6, 4, depth),
        JoinedResidualUnit,
    )


def test_prelu_and_its_gradients_are_torchs() -> None:
    check_as_torchs(nn.PReLU(init=0.3), torch.randn(2, 3, 4, 5, 6), OneSlopePReLU)


@pytest.mark.parametrize(
    "layer",
    [nn.InstanceNorm3d(3), nn.InstanceNorm3d(3, affine=True, eps=0.1)],
    ids=["plain", "affine"],
)
def test_instance_norm_and_its_gradients_are_torchs(layer: nn.InstanceNorm3d) -> None:
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    check_as_torchs(layer, torch.randn(2, 3, 4, 5, 6), ChannelGroupNorm3d)


def test_instance_norm_of_a_single_voxel_is_refused_as_torch_does() -> None:
    layer = nn.InstanceNorm3d(3)
    use_cpu_layers(layer)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        layer(torch.randn(2, 3, 1, 1, 1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 4, 3, groups=2),
        nn.Conv3d(4, 4, 3, dilation=2),
        nn.Conv3d(4, 4, 3, padding="same"),
        nn.Conv3d(4, 4, 3, padding_mode="circular"),
        nn.PReLU(4),
        nn.InstanceNorm3d(4, track_running_stats=True),
        nn.Conv2d(4, 4, 3),
        ResidualUnit(3, 4, 4),
        ResidualUnit(3, 4, 6),
        ResidualUnit(2, 4, 6, strides=2),
        ResidualUnit(3, 4, 6, strides=2, dilation=2),
    ],
    ids=[
        "groups",
        "dilation",
        "same",
        "circular",
        "slopes",
        "running",
        "plane",
        "no residual",
        "other kernel",
        "flat unit",
        "dilated unit",
    ],
)
def test_what_is_not_plain_is_left_to_torch(layer: nn.Module) -> None:
    kind = type(layer)
    use_cpu_layers(layer)
    assert type(layer) is kind


@pytest.mark.parametrize("name", ["unet", "vnet", "attention-unet", "segresnet"])
def test_a_network_answers_as_monais_own(name: str) -> None:
    torch.manual_seed(0)
    ours = build_network(name, full_config(name, {}, [32, 32, 16]), 1).eval()
    monais = copy.deepcopy(ours)
    use_torchs_layers(monais)
    assert any(isinstance(layer, ShallowConv3d) for layer in ours.modules())
    assert not any(
        isinstance(
            layer,
            ShallowConv3d
            | ShallowConvTranspose3d
            | OneSlopePReLU
            | JoinedResidualUnit
            | ChannelGroupNorm3d,
        )
        for layer in monais.modules()
    )
    x = torch.randn(1, 1, 32, 32, 16)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), monais(x), rtol=1e-4, atol=1e-5)
    assert list(ours.state_dict()) == list(monais.state_dict())
