"""Choose the floating-point arithmetic of a network by the device that computes it."""

from collections.abc import Callable
from typing import Any

import torch

from hemseg_cli.core.errors import UsageError

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")
"""What a CPU multiplies bfloat16 with, as torch names it."""


# NVIDIA's compute capability from which tensor cores multiply a type: A100 and newer; V100 and T4.
_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT16_CAPABILITY = (7, 0)


def precision_for(wanted: str, device: torch.device) -> torch.dtype:
    """Choose `float32`, `bfloat16`, `float16`, or for `auto` what the hardware gains by.

    On a CPU that is bfloat16 with AMX or AVX512_BF16, on a GPU see `gpu_precision`; else float32.
    """
    if device.type == "cuda":
        return gpu_precision(wanted, torch.cuda.get_device_capability(device))
    if wanted != "auto":
        return _BY_NAME[wanted]
    # Older versions of torch cannot be asked.
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    has = ask() if device.type == "cpu" else {}
    gains = any(has.get(name, False) for name in _BFLOAT16_UNITS)
    return torch.bfloat16 if gains else torch.float32


def gpu_precision(wanted: str, capability: tuple[int, int]) -> torch.dtype:
    """Choose the arithmetic of a GPU by its compute capability.

    `auto`: bfloat16 from 8.0 on (A100), float16 from 7.0 on (V100, T4), else float32. bfloat16 on
    an older GPU is computed in float32 with conversions, slower than float32 itself: UsageError.
    """
    if wanted == "bfloat16" and capability < _BFLOAT16_CAPABILITY:
        raise UsageError(
            f"bfloat16 on a GPU of compute capability {capability[0]}.{capability[1]}: it has no "
            "units for it (8.0 and newer have)",
            hint="precision auto, float16 or float32",
        )
    if wanted != "auto":
        return _BY_NAME[wanted]
    if capability >= _BFLOAT16_CAPABILITY:
        return torch.bfloat16
    return torch.float16 if capability >= _FLOAT16_CAPABILITY else torch.float32
