"""stdout and stderr as they may be: closed, a full disk, a terminal of few characters."""

import contextlib
import os
from collections.abc import Callable
from io import TextIOBase, UnsupportedOperation
from typing import TextIO

from hemseg_cli.core.errors import HemsegError


class Stream(TextIOBase):
    r"""stdout or stderr, so that printing fails no work.

    A character that the terminal cannot show is written as text (`\xe9`). After the first error,
    which is kept in `error`, everything goes nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: closed before Python has started
        self.error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has an attribute
        """The encoding of the terminal, by which rich chooses its lines."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return is_terminal(self._stream)

    def fileno(self) -> int:
        """The descriptor, by which rich asks for the width."""
        if self._stream is None:
            raise UnsupportedOperation("fileno")
        return self._stream.fileno()

    def shown(self, text: str) -> str:
        """Return the text as it will be written."""
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def write(self, text: str) -> int:
        """Write what the encoding has, and the rest as text."""
        shown = self.shown(text)
        self._guarded(lambda stream: stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        self._guarded(lambda stream: stream.flush())

    def finish(self) -> None:
        """Write what is held back; HemsegError if anything could not be written.

        A reader that went away is no error.
        """
        self.flush()
        if self.error is not None and not isinstance(self.error, BrokenPipeError):
            raise HemsegError(
                f"cannot print the result: {self.error.strerror or self.error}",
                hint="the work itself is done",
            )

    def _guarded(self, act: Callable[[TextIO], object]) -> None:
        if self._stream is None or self.error is not None:
            return
        try:
            act(self._stream)
        except ValueError:
            self._stream = None  # closed meanwhile
        except OSError as error:
            self.error = error
            # Python flushes once more at its end, and would say so and exit with 120.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
