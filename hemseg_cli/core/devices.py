"""Choose the floating-point arithmetic of a network by the device that computes it."""

from collections.abc import Callable
from typing import Any

import torch

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")
"""What a CPU multiplies bfloat16 with, as torch names it."""


def precision_for(wanted: str, device: torch.device) -> torch.dtype:
    """Return the arithmetic of that name; for "auto" bfloat16 where the device gains by it.

    That is a GPU with tensor cores for it (compute capability 8.0), and a CPU with AMX or
    AVX512_BF16, as far as torch says what the CPU has. All others take float32.
    """
    if wanted != "auto":
        return _BY_NAME[wanted]
    if device.type == "cuda":
        gains = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Older versions of torch cannot be asked.
        ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
        has = ask() if device.type == "cpu" else {}
        gains = any(has.get(name, False) for name in _BFLOAT16_UNITS)
    return torch.bfloat16 if gains else torch.float32


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the arithmetic of training: as `precision_for`, but `auto` is float32 on a CPU.

    torch's bfloat16 convolutions on a CPU (2.13 with oneDNN) now and then return gradients that are
    not finite; V-Net lost every fourth batch by it.
    """
    if wanted == "auto" and device.type == "cpu":
        return torch.float32
    return precision_for(wanted, device)
