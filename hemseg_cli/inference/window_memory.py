"""How large a window may be.

What a network takes per voxel is measured on a small one, what there is comes from the setting.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_UNSEEN = 1.5  # beside the tensors: what oneDNN and cuDNN take for themselves, and what lies unused between kept blocks
_OFTEN_ENOUGH = (
    5_000_000  # the published batch is 4.2 million voxels: much larger windows gain nothing
)


def most_voxels(
    network: torch.nn.Module,
    channels: int,
    size: Sequence[int],
    device: torch.device,
    memory_mb: int | None,
) -> int:
    """How many voxels a window may have so that the network keeps to `memory_mb` (None.

    Half of what is free, at most 5 million voxels).

    `size`: a small window that the network takes, on which its appetite is measured.
    """
    per_voxel = bytes_per_voxel(network, channels, size, device)
    if memory_mb is None:
        return min(_OFTEN_ENOUGH, int(free_bytes(device) / 2 / per_voxel))
    return int(memory_mb * 2**20 / per_voxel)


def free_bytes(device: torch.device) -> int:
    """The memory that is free on the device, bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return int(psutil.virtual_memory().available)


def bytes_per_voxel(
    network: torch.nn.Module, channels: int, size: Sequence[int], device: torch.device
) -> float:
    """The most bytes of tensors that live at one moment of a forward pass, per voxel of its input."""
    image = torch.zeros((1, channels, *size), device=device)
    meter = _Meter()
    with torch.inference_mode(), meter:
        network(image)
    return _UNSEEN * (meter.most + image.nbytes) / math.prod(size)


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
