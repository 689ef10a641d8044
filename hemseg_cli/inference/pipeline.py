"""Read the next scan and write the last one while the networks compute this one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from hemseg_cli.core.executor import Outcome, attempt

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def pipelined(
    items: Sequence[T],
    *,
    read: Callable[[T], A],
    compute: Callable[[T, A], B],
    write: Callable[[T, B], C],
) -> Iterator[Outcome[T, C]]:
    """Do `write(compute(read(item)))` for each item in order, reading and writing in threads.

    At most one scan is read ahead and one is being written, so memory does not grow with the number
    of items. An item that fails in any stage (HemsegError, OSError) is reported; the others go on.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            yield from _stages(items, reader, writer, read, compute, write)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def _stages(
    items: Sequence[T],
    reader: ThreadPoolExecutor,
    writer: ThreadPoolExecutor,
    read: Callable[[T], A],
    compute: Callable[[T, A], B],
    write: Callable[[T, B], C],
) -> Iterator[Outcome[T, C]]:
    ahead: Future[Outcome[Any, Any]] | None = (
        reader.submit(attempt, read, items[0]) if items else None
    )
    behind: tuple[T, float, Future[Outcome[Any, Any]]] | None = None
    for number, item in enumerate(items):
        assert ahead is not None
        ready = ahead.result()
        ahead = reader.submit(attempt, read, items[number + 1]) if number + 1 < len(items) else None
        computed = attempt(partial(compute, item), ready.value) if ready.ok else ready
        seconds = ready.seconds + computed.seconds
        del ready
        if behind is not None:
            yield _finished(*behind)
            behind = None
        if not computed.ok:
            yield Outcome(item, error=computed.error, hint=computed.hint, seconds=seconds)
            continue
        behind = (item, seconds, writer.submit(attempt, partial(write, item), computed.value))
        del computed
    if behind is not None:
        yield _finished(*behind)


def _finished(item: T, seconds: float, future: "Future[Outcome[Any, Any]]") -> Outcome[T, Any]:
    written = future.result()
    return Outcome(item, written.value, written.error, written.hint, seconds + written.seconds)
