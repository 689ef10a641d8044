"""One way to work on many cases: here, in local processes, or on a Dask cluster.

A case that fails is reported; the others go on.
"""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Generic, TypeVar

from hemseg_cli.core.errors import HemsegError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one item: its value, or the error that stopped it."""

    item: T
    value: R | None = None
    error: str | None = None
    hint: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the item was worked on to the end."""
        return self.error is None


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_cases(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    preload: Sequence[str] = (),
) -> Iterator[Outcome[T, R]]:
    """`function` on each item, as each is done.

    `workers`: processes (None: one per core; 0 or a single item: this process). `scheduler`: a Dask
    address instead. `preload`: modules that the workers import once. HemsegError and OSError fail
    their item alone; any other exception is a bug and is raised here. An item whose worker dies is
    tried once more by itself, and named if the worker dies again.
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *preload])
    _start_forkserver()
    orphans = yield from _in_pool(function, items, min(count, len(items)), context)
    for item in orphans:
        still = yield from _in_pool(function, [item], 1, context)
        if still:
            yield Outcome(
                item,
                error="the worker process died on it, twice",
                hint="often too little memory: fewer --workers",
            )


def _start_forkserver() -> None:
    """Start the process that workers are forked from, one numerical thread in each.

    The workers share out the cores already.

    Left alone, every worker's BLAS starts a thread per core, and they spend their time waiting for
    each other (measured: three times slower). This process keeps its own number of threads.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def attempt(function: Callable[[T], R], item: T) -> Outcome[T, R]:
    """`function(item)`, with HemsegError and OSError as the outcome's error.

    Any other exception is a bug and is raised.
    """
    start = time.perf_counter()
    try:
        value = function(item)
    except HemsegError as error:
        return Outcome(
            item, error=error.message, hint=error.hint, seconds=time.perf_counter() - start
        )
    except OSError as error:
        return Outcome(item, error=_os_error_text(error), seconds=time.perf_counter() - start)
    return Outcome(item, value=value, seconds=time.perf_counter() - start)


def _in_pool(function: Callable[[T], R], items: Sequence[T], workers: int, context: Any) -> Any:
    """Yields outcomes; returns the items that were left without one because a worker died."""
    left = dict(enumerate(items))
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_end_with_parent
    ) as pool:
        futures = {pool.submit(attempt, function, item): index for index, item in left.items()}
        try:
            for future in concurrent.futures.as_completed(futures):
                outcome = future.result()
                del left[futures[future]]
                yield outcome
        except BrokenProcessPool:
            return list(left.values())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return []


def _end_with_parent() -> None:
    """Let this worker end when the command does.

    One whose command was killed (kill -9) would wait for work for ever.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_dask(
    function: Callable[[T], R], items: Sequence[T], scheduler: str
) -> Iterator[Outcome[T, R]]:
    """A case whose worker dies goes to another one.

    One that takes several workers with it is named.
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
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
