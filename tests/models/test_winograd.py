import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hemseg_cli.models import winograd

sizes = st.integers(1, 3)


def answer_and_gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    ours: bool,
) -> list[torch.Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
    x, weight, bias = inputs[0], inputs[1], inputs[2] if bias is not None else None
    if ours:
        answer = winograd.convolution(x, weight, bias, stride, padding)
    else:
        answer = functional.conv3d(x, weight, bias, (*stride, 1), (*padding, 1))
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return [answer.detach(), *torch.autograd.grad((answer * weights).sum(), inputs)]


@settings(max_examples=60, deadline=None)
@given(
    depth=st.sampled_from([2, 4, 8, 12, 16]),
    n=sizes,
    channels=st.tuples(sizes, sizes),
    kernel=st.tuples(sizes, sizes),
    stride=st.tuples(sizes, sizes),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
)
def test_answer_and_gradients_are_torchs(
    depth: int,
    n: int,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
) -> None:
    c, o = channels
    x = torch.randn(n, c, 4, 5, depth, dtype=torch.float64)
    weight = torch.randn(o, c, *kernel, 3, dtype=torch.float64)
    biases = torch.randn(o, dtype=torch.float64) if bias else None
    ours, torchs = (
        answer_and_gradients(x, weight, biases, stride, padding, ours=mine)
        for mine in (True, False)
    )
    for own, reference in zip(ours, torchs, strict=True):
        torch.testing.assert_close(own, reference)


def test_input_without_a_gradient_costs_none() -> None:
    x, weight = torch.randn(1, 2, 4, 4, 4), torch.randn(3, 2, 3, 3, 3, requires_grad=True)
    answer = winograd.convolution(x, weight, None, (1, 1), (1, 1))
    answer.sum().backward()
    reference = torch.autograd.grad(functional.conv3d(x, weight, padding=1).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, reference, rtol=1e-4, atol=1e-4)


def test_depth_that_was_first_met_in_inference_can_be_trained() -> None:
    x, weight = torch.randn(1, 2, 3, 3, 20), torch.randn(2, 2, 3, 3, 3, requires_grad=True)
    with torch.inference_mode():
        answer = winograd.convolution(x, weight, None, (1, 1), (1, 1))
    winograd.convolution(x.requires_grad_(), weight, None, (1, 1), (1, 1)).sum().backward()
    torch.testing.assert_close(
        answer.clone(), functional.conv3d(x, weight, padding=1).detach(), rtol=1e-4, atol=1e-4
    )
    assert weight.grad is not None


@pytest.mark.parametrize("depth", [2, 8])
def test_error_in_float32_is_that_of_a_few_roundings(depth: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 32, 16, 16, depth), torch.randn(32, 32, 3, 3, 3)
    exact = functional.conv3d(x.double(), weight.double(), padding=1)
    error = (winograd.convolution(x, weight, None, (1, 1), (1, 1)) - exact).norm() / exact.norm()
    assert error < 2e-6


@pytest.mark.parametrize(
    ("depth", "filtered"), [(1, False), (2, True), (3, False), (4, True), (6, False), (16, True)]
)
def test_depths_that_there_is_a_filtering_for(depth: int, filtered: bool) -> None:
    assert winograd.is_filtered(depth) is filtered
