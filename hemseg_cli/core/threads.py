"""Choose how many threads compute, by the cores that are there for this process and are idle.

A library's own default is one thread for each core of the machine. In a container with a quota, or
beside a neighbour's work, threads then wait for each other at the end of every operation, and by
default they spin while they wait: measured on a shared node, 0.3 patches/s where one thread made 6.

Nothing heavy is imported here: `never_spin` has to come before torch.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from hemseg_cli.core import console

_PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""What GNU's and Intel's OpenMP read when they are loaded: threads that wait sleep."""

_SAMPLE_S = 0.2
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def never_spin(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep, unless the user has said otherwise. Call it before torch loads."""
    for name, value in _PASSIVE.items():
        environ.setdefault(name, value)


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, within its cgroups' quota."""
    quota = min(_quotas(), default=math.inf)
    cores = len(_affinity())
    # Of half a core too: one thread.
    return max(1, min(cores, math.ceil(quota) if quota < cores else cores))


def idle_cores(seconds: float = _SAMPLE_S) -> float:
    """Measure how many of this process's cores nobody has used for a moment, while it sleeps."""
    import psutil

    allowed = _affinity()

    def busy_seconds() -> list[float]:
        times = psutil.cpu_times(percpu=True)
        return [
            sum(core) - core.idle - getattr(core, "iowait", 0.0)
            for number, core in enumerate(times)
            if number in allowed
        ]

    start, before = time.monotonic(), busy_seconds()
    time.sleep(seconds)
    passed = time.monotonic() - start
    used = sum(after - first for after, first in zip(busy_seconds(), before, strict=True))
    return max(0.0, len(allowed) - used / passed)


def choose_threads(cores: int, idle: float, *, processes: int = 1) -> int:
    """Return the threads of each of `processes`: the cores that are idle, at least one."""
    return max(1, min(cores, math.floor(idle + 0.5)) // processes)


def use_threads(wanted: int | None, *, environ: Mapping[str, str] = os.environ) -> int:
    """Set torch's threads to `wanted` (`compute.threads`), or to what suits the machine now.

    The user's OMP_NUM_THREADS is kept; torch's own number, which leaves out hyper-threads, is never
    exceeded unasked. Of several processes on a machine each takes its share. Returns the number.
    """
    import torch

    if wanted is not None:
        torch.set_num_threads(wanted)
        return wanted

    # `torchrun` sets one thread for each process where the user has set none.
    processes = max(1, int(environ.get("LOCAL_WORLD_SIZE", "1")))
    if "OMP_NUM_THREADS" in environ and (processes == 1 or environ["OMP_NUM_THREADS"] != "1"):
        return torch.get_num_threads()

    # Processes that start together would take each other for a neighbour.
    cores = usable_cores()
    idle = float(cores) if processes > 1 else min(float(cores), idle_cores())
    threads = choose_threads(cores, idle, processes=processes)
    if processes == 1:
        threads = min(threads, torch.get_num_threads())
    if idle < cores - 0.5:
        console.say(
            f"{cores - idle:.1f} of {cores} cores are busy with other work: {threads} "
            f"{'thread' if threads == 1 else 'threads'} used (compute.threads)"
        )
    torch.set_num_threads(threads)
    return threads


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _quotas() -> Iterator[float]:
    """The cores that each cgroup of this process may use at a time, those above it included.

    Version 2 has one tree, with `cpu.max`; version 1 one for each controller, with two files.
    """
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or no /proc
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        roots = [_CGROUPS / controllers] if controllers else [_CGROUPS, _CGROUPS / "unified"]
        if controllers and "cpu" not in controllers.split(","):
            continue
        if controllers:
            roots.append(_CGROUPS / "cpu")
        for root in roots:
            group = root / path.lstrip("/")
            # In a container the path may be the host's: then the root is this process's own.
            for folder in (group, *group.parents):
                yield from _quota_of(folder)
                if folder == root:
                    break


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        except OSError:
            return
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        yield int(quota) / int(period)
