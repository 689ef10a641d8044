"""What a network needs of the machine to run at its speed.

The arithmetic, and memory that stays.
"""

import ctypes
import sys

import torch

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_for(wanted: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16`, `float16`, or `auto`.

    Bfloat16 where the hardware multiplies it faster, else float32.

    That is a GPU with tensor cores for it (compute capability 8.0), and a CPU with AMX or
    AVX512_BF16.
    """
    if wanted != "auto":
        return _BY_NAME[wanted]
    if device.type == "cuda":
        gains = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        gains = device.type == "cpu" and (
            torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        )
    return torch.bfloat16 if gains else torch.float32


def keep_memory(device: torch.device) -> None:
    """On a CPU: let this process keep the memory that it frees, for the next large tensor.

    glibc else returns each large block to the system at once, which then clears every page of the
    next one: a third of the time of a network. It costs up to half as much memory again, for what
    lies between kept blocks. Without glibc nothing is done.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)
