"""One way to work on many cases: here, in local processes, or on a Dask cluster.

A case that fails is reported; the others go on.
"""

import concurrent.futures
import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, WriteError
from hemseg_cli.core.threads import usable_cores

# One numerical thread in each worker: the workers share out the cores already. Left alone, every
# worker's BLAS starts a thread per core, and they wait for each other (measured: three times
# slower). And no module of the current folder: a `random.py` there is not Python's own.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",
}
_START_METHODS = ("forkserver", "spawn")
"""How workers are started, the first that works here: the second has no need of a socket."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one item: its value, or the error that stopped it.

    `is_unwritable`: the place of its outputs is at fault (a full disk), not the item.
    """

    item: T
    value: R | None = None
    error: str | None = None
    hint: str = ""
    seconds: float = 0.0
    is_unwritable: bool = False

    @property
    def ok(self) -> bool:
        """Whether the item was worked on to the end."""
        return self.error is None


def default_workers() -> int:
    """Count the cores that this process may use."""
    return usable_cores()


def map_cases(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    preload: Sequence[str] = (),
) -> Iterator[Outcome[T, R]]:
    """Apply `function` to each item and yield each outcome as it is done.

    `workers`: processes (None: one per core; 0 or a single item: this process; this process also,
    with a warning, where none can be started). `scheduler`: a Dask address instead. `preload`:
    modules that the workers import once. HemsegError and OSError fail their item alone; any other
    exception is a bug and is raised here. An item whose worker dies is tried once more by itself,
    and named if the worker dies again.
    """
    if not items:
        return
    if scheduler is not None:
        yield from _on_dask(function, items, scheduler)
        return
    count = default_workers() if workers is None else workers
    if count == 0 or min(count, len(items)) == 1:
        yield from (attempt(function, item) for item in items)
        return

    modules = [function.__module__, *preload]
    orphans = yield from _in_pool(function, items, min(count, len(items)), modules)
    for item in orphans:
        still = yield from _in_pool(function, [item], 1, modules)
        if still:
            yield Outcome(
                item,
                error="the worker process died on it, twice",
                hint="often too little memory: fewer --workers",
            )


def attempt(function: Callable[[T], R], item: T) -> Outcome[T, R]:
    """Call `function(item)`, with HemsegError and OSError as the outcome's error.

    Any other exception is a bug and is raised.
    """
    start = time.perf_counter()
    try:
        value = function(item)
    except HemsegError as error:
        return Outcome(
            item,
            error=error.message,
            hint=error.hint,
            seconds=time.perf_counter() - start,
            is_unwritable=isinstance(error, WriteError),
        )
    except OSError as error:
        return Outcome(item, error=_os_error_text(error), seconds=time.perf_counter() - start)
    return Outcome(item, value=value, seconds=time.perf_counter() - start)


def _in_pool(
    function: Callable[[T], R], items: Sequence[T], workers: int, modules: Sequence[str]
) -> Generator[Outcome[T, R], None, list[T]]:
    """Yield outcomes; return the items that were left without one because a worker died."""
    before = set(multiprocessing.active_children())
    left = dict(enumerate(items))
    started = _start_pool(function, items, workers, modules)
    if started is None:
        yield from (attempt(function, item) for item in items)
        return []

    pool, futures = started
    children = set(multiprocessing.active_children()) - before
    try:
        for future in concurrent.futures.as_completed(futures):
            outcome = future.result()
            del left[futures[future]]
            yield outcome
    except BrokenProcessPool:
        pass
    except BaseException:
        # Stopped, or a bug: nobody waits for what the workers are at.
        for child in children:
            child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return list(left.values())


def _start_pool(
    function: Callable[[T], R], items: Sequence[T], workers: int, modules: Sequence[str]
) -> tuple[ProcessPoolExecutor, dict[Future[Outcome[T, R]], int]] | None:
    """Start workers and give them the items; None, with a warning, where none can be started.

    A long TMPDIR leaves no room for the fork server's socket; without /dev/shm, or with a full
    one, there are no semaphores.
    """
    reason = "no way to start them"
    for method in _START_METHODS:
        if method not in multiprocessing.get_all_start_methods():
            continue
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(list(modules))
        futures: dict[Future[Outcome[T, R]], int] = {}
        pool = None
        try:
            with _worker_environment():
                pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
                for index, item in enumerate(items):
                    futures[pool.submit(attempt, function, item)] = index
        except BrokenProcessPool:
            pass  # a worker died while the items were handed out: the rest is left over
        except (OSError, NotImplementedError, ImportError) as error:
            reason = str(error)
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            continue
        if pool is not None:
            return pool, futures
    console.warn(f"worker processes cannot be started ({reason}): one case after the other")
    return None


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Set what workers inherit while they are started; this process keeps its own."""
    before = {name: os.environ.get(name) for name in _WORKER_ENVIRONMENT}
    os.environ.update(_WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _prepare_worker() -> None:
    """Leave Ctrl-C to the command, and end when the command does.

    A worker whose command was killed (kill -9) would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_dask(
    function: Callable[[T], R], items: Sequence[T], scheduler: str
) -> Iterator[Outcome[T, R]]:
    """Yield outcomes from a Dask cluster.

    A case whose worker dies goes to another one; one that takes several workers with it is named.
    """
    try:
        from distributed import Client, KilledWorker  # an extra
    except ImportError:
        raise HemsegError("--scheduler needs Dask", hint="pip install 'hemseg[dask]'") from None
    try:
        client = Client(scheduler, timeout=5)
    except (OSError, ValueError) as error:
        raise HemsegError(
            f"no Dask scheduler at {scheduler}: {error}",
            hint="dask scheduler   starts one and prints its address",
        ) from None
    with client, client.get_executor(pure=False, retries=2) as pool:
        futures = {pool.submit(attempt, function, item): item for item in items}
        for future in concurrent.futures.as_completed(futures):
            try:
                yield future.result()
            except KilledWorker as error:
                yield Outcome(
                    futures[future],
                    error=f"the workers died on it: {error}",
                    hint="often too little memory on the workers",
                )


def _os_error_text(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename})" if error.filename else "the disk is full"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
