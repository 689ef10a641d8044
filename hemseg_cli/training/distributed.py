"""Train in one process or in many (`torchrun`): their ranks, and what they tell each other."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from hemseg_cli.core.errors import HemsegError

T = TypeVar("T")

# Preparing the scans of a large data set happens on rank 0 while the others wait.
_PROCESS_GROUP_TIMEOUT = timedelta(hours=3)
# Gloo's thread drops the tensors of the last message a moment after it came, and needs the
# interpreter for that. DistributedDataParallel waits for that thread when it is freed, and keeps
# the interpreter meanwhile: without a pause, a hang (torch 2.13).
_GLOO_DRAIN_S = 0.2


@dataclass(frozen=True)
class Processes:
    """One process among `size`; rank 0, the main one, writes files and talks.

    With a single process every method is the identity.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Choose the device of this process: a GPU each, where the device is a GPU."""
        if self.size > 1 and str(device) == "cuda":
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return device

    def gather(self, value: T) -> list[T]:
        """Collect the values of all processes, by rank, in every process.

        Plain objects over gloo: for now and then, not for every step.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return in every process what `make` returns on rank 0; the others wait for it.

        An error there is raised in all.
        """
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = make()
            except HemsegError as error:
                answer[1] = error
        distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        value: T = answer[0]
        return value

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, with a gradient.

        A loss that is made from it has, after DistributedDataParallel has averaged the gradients,
        the gradient of one process that held everything: the gradient runs back through this
        process's own share, times the number of processes.
        """
        if self.size == 1:
            return tensor
        everyone = tensor.detach().clone()
        distributed.all_reduce(everyone)
        return everyone + self.size * (tensor - tensor.detach())

    def add_up(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, where no gradient is needed."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def parallel(
        self, network: nn.Module, device: torch.device, *, idle_weights: bool
    ) -> nn.Module:
        """Wrap a network so that its gradients are averaged over all processes.

        Batch statistics are shared too, where the device can.

        `idle_weights`: whether the network has weights that its output does not depend on (MONAI's
        transformers do).
        """
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=idle_weights)


@contextlib.contextmanager
def process_group(device_type: str) -> Iterator[Processes]:
    """Open the process group that `torchrun` announces in the environment for the block.

    Without `torchrun`: this process alone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Processes()
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    backend = backend_for(device_type, here, torch.cuda.device_count())
    distributed.init_process_group(backend, timeout=_PROCESS_GROUP_TIMEOUT)
    try:
        yield Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        time.sleep(_GLOO_DRAIN_S)
        distributed.destroy_process_group()


def backend_for(device_type: str, processes: int, gpus: int) -> str:
    """Choose how the `processes` of one machine add up tensors.

    NCCL refuses two processes on one GPU: gloo, by way of the host's memory, takes them.
    """
    if device_type == "cuda" and processes <= gpus:
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def announced_rank() -> int:
    """The rank that `torchrun` gave this process, 0 without it."""
    return int(os.environ.get("RANK", "0"))
