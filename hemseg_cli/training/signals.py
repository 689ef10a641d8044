"""SIGTERM and Ctrl-C as a request: the loop finishes its batch, saves, and leaves."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from hemseg_cli.core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

_EXIT_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}


@dataclass
class StopRequest:
    """`exit_code` is None until a signal came, then 130 or 143."""

    exit_code: int | None = None

    def __bool__(self) -> bool:
        return self.exit_code is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of unwinding; a second Ctrl-C unwinds at once.

    Outside the main thread signals are left alone.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    owner = os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child has inherited this: who terminates it means it
            os._exit(_EXIT_CODES[signal.Signals(number)])
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.exit_code = _EXIT_CODES[signal.Signals(number)]

    before = {number: signal.signal(number, note) for number in _EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
