"""Load training batches: one stream for the whole training.

One loader for the whole training, each patch derived from (seed, epoch, index) alone.

A key of the loader is (epoch, index). Workers are started once, and run ahead into the next epoch;
the stream can begin at any batch of any epoch, and gives the same batches whatever the number of
workers.
"""

import contextlib
import mmap
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.training.distributed import Processes

Key = tuple[int, int]

# A worker outlives SIGTERM to the whole process group by this much, so that the running batch can
# be finished and saved.
_WORKER_GRACE_S = 60
_SIGNAL_ARRIVAL_S = 1.0  # until the signal of a worker's death has come for certain
_PREFETCHED = 2  # batches that each worker cuts ahead
_HELD_BATCHES = 2  # by the main process: the one that is trained on and the next
_SHARED_MEMORY_SHARE = 0.8  # of the free shared memory that batches may take
_LOADER_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


class Patches(Protocol):
    """The patches of one epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def scan(self, index: int) -> str:
        """The scan that a patch is cut from, without cutting it."""


@dataclass(frozen=True)
class Batch:
    """Images [n, c, i, j, k] and labels [n, 1, i, j, k] of this process.

    `scans`: the scan that each patch is cut from.
    """

    images: Tensor
    labels: Tensor
    scans: list[str]


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch's patches fall into batches, and a batch onto processes.

    `batch_size` is a multiple of the number of processes (see `shared_batch_size`).
    """

    patches: int
    batch_size: int
    processes: Processes

    def __len__(self) -> int:
        """Count the batches of an epoch.

        The last may be smaller, but never too small to give every process as many patches.
        """
        full, rest = divmod(self.patches, self.batch_size)
        return full + (rest >= self.processes.size)

    def indices(self, batch: int) -> list[int]:
        """The patches of a batch that fall to this process."""
        start = batch * self.batch_size
        stop = min(start + self.batch_size, self.patches)
        stop -= (stop - start) % self.processes.size
        return list(range(start + self.processes.rank, stop, self.processes.size))


def shared_batch_size(batch_size: int, processes: int) -> int:
    """Round a batch up to as many patches for each process, at least one."""
    return processes * -(-batch_size // processes)


class _Keys(Sampler[list[Key]]):
    def __init__(self, plan: BatchPlan, epoch: int, batch: int, epochs: int) -> None:
        self._plan, self._epoch, self._batch, self._epochs = plan, epoch, batch, epochs

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in range(self._epoch, self._epochs):
            for batch in range(self._batch if epoch == self._epoch else 0, len(self._plan)):
                yield [(epoch, index) for index in self._plan.indices(batch)]

    def __len__(self) -> int:
        return max(0, (self._epochs - self._epoch) * len(self._plan) - self._batch)


class Loading:
    """The patches of all epochs, and the processes that cut them.

    Each worker notes which patch it cuts, as a row of process id, epoch and index, in memory that
    forked workers share with this process.
    """

    def __init__(self, patches_of: Callable[[int], Patches], workers: int) -> None:
        self.patches_of, self.workers = patches_of, workers
        # An anonymous map is shared by a fork, and does not need /dev/shm.
        memory = mmap.mmap(-1, max(1, workers) * 3 * np.dtype(np.int64).itemsize)
        self._notes = np.frombuffer(memory, np.int64).reshape(-1, 3)
        self._notes[:] = -1

    def note(self, worker: int, key: Key) -> None:
        """Worker number `worker`, the calling process, begins a patch."""
        self._notes[worker] = (os.getpid(), *key)

    @contextlib.contextmanager
    def deaths_named(self) -> Iterator[None]:
        """A worker's death becomes a HemsegError that names the scan it was at.

        torch raises it from a signal handler, that is from whatever the main process is doing: the
        block is everything done while workers run. The signal can come a moment after the end of
        the worker's connection, which the main process may be reading from.
        """
        try:
            try:
                yield
            except (OSError, EOFError):
                if self.workers:
                    time.sleep(_SIGNAL_ARRIVAL_S)
                raise
        except RuntimeError as error:
            died = _LOADER_DIED.search(str(error))
            if died is None:
                raise
            pids = {int(pid) for pid in died[1].split(",")}
            scans = [
                self.patches_of(epoch).scan(index)
                for pid, epoch, index in self._notes.tolist()
                if pid in pids
            ]
            raise HemsegError(
                f"a loader worker died while it was cutting a patch from scan "
                f"{', '.join(scans) or 'unknown'}: "
                f"{str(error).splitlines()[0]}",
                hint="often too little memory: --set compute.workers=0 or fewer; "
                "then hemseg train --resume",
            ) from None


class _EveryEpoch(Dataset[dict[str, Any]]):
    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._current: tuple[int, Patches] | None = None

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        worker = get_worker_info()
        if worker is not None:
            self._loading.note(worker.id, key)
        if self._current is None or self._current[0] != epoch:
            self._current = (epoch, self._loading.patches_of(epoch))
        return self._current[1][index]


def workers_within(workers: int, batch_bytes: int, free_bytes: int) -> int:
    """Lower a number of workers until the batches on their way fit into the shared memory.

    A worker has two batches ahead (`_PREFETCHED`) and the one it makes; the main process holds two.
    """
    room = int(free_bytes * _SHARED_MEMORY_SHARE) - _HELD_BATCHES * batch_bytes
    return max(0, min(workers, room // ((_PREFETCHED + 1) * batch_bytes)))


def shared_memory_bytes() -> int | None:
    """The free bytes of `/dev/shm`, through which workers hand over batches.

    0 where it is missing or cannot be written to; None on a system that does without it.
    """
    if sys.platform != "linux":
        return None
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize if os.access("/dev/shm", os.W_OK) else 0


@contextlib.contextmanager
def batch_stream(
    loading: Loading, plan: BatchPlan, *, epoch: int, batch: int, epochs: int, pin: bool = False
) -> Iterator[Iterator[Batch]]:
    """Every batch from `batch` of `epoch` (both from 0) to the end of epoch `epochs` - 1, in order.

    Workers, where there are some, cut patches ahead. Put `loading.deaths_named()` around the block.
    """
    workers = loading.workers
    loader = DataLoader(
        _EveryEpoch(loading),
        batch_sampler=_Keys(plan, epoch, batch, epochs),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        # The loader draws a number for itself: not from the generator that dropout uses.
        generator=torch.Generator(),
        prefetch_factor=_PREFETCHED if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    stream = iter(loader)
    try:
        yield _batches(stream)
    finally:
        del stream  # ends the workers


def _batches(stream: Iterator[dict[str, Any]]) -> Iterator[Batch]:
    for items in stream:
        yield Batch(items["image"], items["label"], list(items["scan"]))


def _begin_worker(_worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which finishes the batch first.

    A terminal sends them to the whole group.
    """

    def leave_later(_signal: int, _frame: FrameType | None) -> None:
        grace = threading.Timer(_WORKER_GRACE_S, os._exit, (1,))
        grace.daemon = True
        grace.start()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave_later)
