"""Choose the floating-point arithmetic of a network by the device that computes it."""

import torch

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


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The arithmetic of training: as `precision_for`, but `auto` is float32 on a CPU.

    torch's bfloat16 convolutions on a CPU (2.13 with oneDNN) now and then return gradients that are
    not finite; V-Net lost every fourth batch by it.
    """
    if wanted == "auto" and device.type == "cpu":
        return torch.float32
    return precision_for(wanted, device)
