"""Decide how large a window may be, from the memory that a network takes per voxel.

That is measured on a small window; how much memory there is comes from the setting.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Memory taken over that of the tensors: oneDNN's and cuDNN's own, and gaps between blocks.
_MEMORY_PER_TENSOR_BYTE = 1.5
# The published batch is 4.2 million voxels: much larger windows gain nothing.
_MOST_USEFUL_VOXELS = 5_000_000


def most_voxels(
    network: torch.nn.Module,
    channels: int,
    size: Sequence[int],
    device: torch.device,
    memory_mb: int | None,
) -> int:
    """Return how many voxels a window may have so that the network keeps to `memory_mb`.

    None: half of what is free, at most 5 million voxels. `size`: a small window that the network
    takes, on which its memory is measured.
    """
    per_voxel = bytes_per_voxel(network, channels, size, device)
    if memory_mb is None:
        return min(_MOST_USEFUL_VOXELS, int(free_bytes(device) / 2 / per_voxel))
    return int(memory_mb * 2**20 / per_voxel)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on the device, bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return int(psutil.virtual_memory().available)


def bytes_per_voxel(
    network: torch.nn.Module, channels: int, size: Sequence[int], device: torch.device
) -> float:
    """Return the peak of tensor memory in a forward pass, bytes per voxel of its input."""
    image = torch.zeros((1, channels, *size), device=device)
    meter = _Meter()
    with torch.inference_mode(), meter:
        network(image)
    return _MEMORY_PER_TENSOR_BYTE * (meter.most + image.nbytes) / math.prod(size)


class _Meter(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {
            value.untyped_storage().data_ptr()
            for value in (*args, *(kwargs or {}).values())
            if isinstance(value, torch.Tensor)
        }
        for value in result if isinstance(result, tuple | list) else (result,):
            if (
                isinstance(value, torch.Tensor)
                and value.untyped_storage().data_ptr() not in known | self._alive
            ):
                self._count(value)
        return result

    def _count(self, value: torch.Tensor) -> None:
        place, size = value.untyped_storage().data_ptr(), value.untyped_storage().nbytes()
        self._alive.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(value, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._alive.discard(place)
        self.now -= size
