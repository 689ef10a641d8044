"""Choose how many processes cut patches: enough to keep the device busy, no more than fit.

How many that is depends on network, patch and augmentation as much as on the machine: 20 patches/s
of a small network want eight workers, 2 patches/s of a large one a single one.
"""

import math
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.executor import default_workers
from hemseg_cli.training.batches import (
    Batch,
    Loading,
    shared_memory_bytes,
    workers_within,
)
from hemseg_cli.training.data_sets import run_classes
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.micro_batch import add_gradient
from hemseg_cli.training.state import TrainState

if TYPE_CHECKING:
    from hemseg_cli.training.setup import TrainSetup

_MOST_WORKERS = 16
_FLOAT32_BYTES = 4
_MEASURED_STEPS = 5
# Workers cut unevenly, and share the cores with each other.
_SPARE = 1.5


def loader_workers(config: Config, device: torch.device, processes: Processes) -> int:
    """Count the loader's worker processes: `compute.workers`, as far as shared memory allows.

    Not set: 0 on a CPU, whose cores compute the network, else this process's share of the cores
    but one, until `measured_workers` knows better.
    """
    if config.compute.workers is not None:
        wanted = config.compute.workers
    elif device.type == "cpu":
        wanted = 0
    else:
        wanted = _most_workers(processes)
    return _within_shared_memory(wanted, config, processes)


def measured_workers(state: TrainState, setup: "TrainSetup", processes: Processes) -> "TrainSetup":
    """Return the setup with as many workers as this network on this device needs.

    Times patches cut in this process, and training steps on one batch that change nothing. Every
    process has to call it. Where the user has set `compute.workers`, or on a CPU, nothing is done.
    """
    config = state.config
    if config.compute.workers is not None or state.device.type == "cpu":
        return setup
    try:
        cut_s, patches_per_s = measure(state, setup)
    except torch.OutOfMemoryError:
        return setup  # the first step says so, with what to lower
    wanted = workers_needed(cut_s, patches_per_s, most=_most_workers(processes))
    workers = _within_shared_memory(wanted, config, processes)
    console.log.info(
        "%d loader workers: a patch is cut in %.3f s, the network takes %.1f a second",
        workers,
        cut_s,
        patches_per_s,
    )
    return replace(setup, loading=Loading(setup.loading.patches_of, workers))


def workers_needed(cut_s: float, patches_per_s: float, *, most: int) -> int:
    """Return how many processes cut `patches_per_s` at `cut_s` each, with some to spare."""
    return max(1, min(most, math.ceil(cut_s * patches_per_s * _SPARE)))


def measure(state: TrainState, setup: "TrainSetup") -> tuple[float, float]:
    """Time the cutting of a patch, s, and the training on this process's batches, patches/s.

    The median of a few; weights, batch statistics and gradients are left as they were.
    """
    patches, times = setup.loading.patches_of(0), []
    items = []
    for index in setup.plan.indices(0):
        started = time.perf_counter()
        items.append(patches[index])
        times.append(time.perf_counter() - started)
    batch = Batch(
        torch.stack([item["image"] for item in items]),
        torch.stack([item["label"] for item in items]),
        [item["scan"] for item in items],
    )

    # The first step finds the fastest convolutions; it is left out.
    state.parallel.train()
    kept = [(buffer, buffer.clone()) for buffer in state.network.buffers()]
    steps = [_step_seconds(state, setup, batch) for _ in range(_MEASURED_STEPS)][1:]
    for buffer, before in kept:
        buffer.copy_(before)
    return statistics.median(times), len(items) / statistics.median(steps)


def _step_seconds(state: TrainState, setup: "TrainSetup", batch: Batch) -> float:
    """Compute one gradient and drop it."""
    started = time.perf_counter()
    add_gradient(state, batch, setup.loss)
    if state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    state.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def _most_workers(processes: Processes) -> int:
    return max(1, min(_MOST_WORKERS, default_workers() // processes.size - 1))


def _within_shared_memory(wanted: int, config: Config, processes: Processes) -> int:
    """Lower a number of workers until their batches fit into `/dev/shm`, and say so."""
    free = shared_memory_bytes()
    if not wanted or free is None:
        return wanted
    channels = len(config.train.windows) + len(run_classes(config))
    batch_bytes = _FLOAT32_BYTES * channels * math.prod(config.train.patch)
    batch_bytes *= max(1, config.train.batch_size // processes.size)
    workers = workers_within(wanted, batch_bytes, free // processes.size)
    if workers < wanted:
        console.warn(
            f"/dev/shm has {free / 1e6:.0f} MB free, and {wanted} loader workers in each of "
            f"{processes.size} processes need more for batches of {batch_bytes / 1e6:.0f} MB: "
            f"{workers or 'none'} used (docker run --shm-size=2g gives more)"
        )
    return workers
