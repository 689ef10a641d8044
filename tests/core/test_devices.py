import os
import platform
import resource
import subprocess
import sys

import pytest
import torch

from hemseg_cli.core.devices import precision_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "expected"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
    ids=["neither", "amx", "avx512_bf16"],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert precision_for("auto", CPU) is expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_auto_is_bfloat16_on_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert precision_for("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(name: str) -> None:
    assert precision_for(name, CPU) is getattr(torch, name)


_PASSES_OF_A_NETWORK = """
import resource, sys, torch
from hemseg_cli.core.devices import keep_memory
if sys.argv[1] == "keep":
    keep_memory(torch.device("cpu"))
network = torch.nn.Sequential(torch.nn.Conv3d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv3d(16, 1, 3))
image = torch.zeros(1, 1, 96, 96, 96)
with torch.inference_mode():
    for number in range(13):
        if number == 3:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(image)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _pages_asked_for(what: str) -> int:
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MALLOC_", "GLIBC_", "THP_"))
    }
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PASSES_OF_A_NETWORK, what],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_network_takes_the_memory_that_its_last_pass_has_freed() -> None:
    left, kept = _pages_asked_for("leave"), _pages_asked_for("keep")
    pages_of_a_layer = 16 * 96**3 * 4 // resource.getpagesize()
    assert left > 9 * pages_of_a_layer  # ten passes
    assert kept < left / 3
