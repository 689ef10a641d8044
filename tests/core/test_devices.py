import pytest
import torch

from hemseg_cli.core.devices import gpu_precision, precision_for
from hemseg_cli.core.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
    ids=["neither", "amx", "avx512_bf16", "another architecture"],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert precision_for("auto", CPU) is expected


def test_a_torch_that_cannot_be_asked_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision_for("auto", CPU) is torch.float32


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), torch.float32),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_auto_is_what_the_tensor_cores_multiply(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert precision_for("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 5)])
def test_bfloat16_is_refused_on_a_gpu_without_units_for_it(capability: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"bfloat16 on a GPU of compute capability \d\.\d"):
        gpu_precision("bfloat16", capability)
    assert gpu_precision("float16", capability) is torch.float16


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(name: str) -> None:
    assert precision_for(name, CPU) is getattr(torch, name)
