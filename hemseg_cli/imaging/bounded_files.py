"""Files of strangers, read no further than what is asked for: regular files alone, gzip unpacked.

A pipe or a device would block or never end, and a few bytes of gzip may unpack to gigabytes: the
reader of a format asks for its header, works out from it how much there has to be, and asks for
that. `igzip` cannot serve here: it reads ahead over the end of what is asked for, so that bytes
behind an image would make it unreadable.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from hemseg_cli.core.errors import FileFormatError

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31  # a gzip header and the full window
_FIRST_FEED_BYTES, _MOST_FEED_BYTES = 1 << 10, 1 << 20
_COPY_HINT = "copy or convert it again"
_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows: no translation of line ends


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; FileFormatError naming it where it is missing, a folder or a device."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _O_BINARY)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise unreadable(str(path), error) from None

    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise FileFormatError(
            f"{path} is no regular file but a {_kind(mode)}", hint="give files, or folders of them"
        )

    with open(handle, "rb") as file:
        yield file


class BoundedReader:
    """Read a file, gzipped or not, exactly as far as is asked for.

    `name` stands in every error. Memory beyond the bytes asked for: a megabyte.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._file = name, file
        self._packed = self._peek() == GZIP_MAGIC
        self._left = b""
        self._feed_bytes = _FIRST_FEED_BYTES
        self._stream = self._new_stream() if self._packed else None

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> "BoundedReader":
        """Read bytes that are already in memory."""
        return cls(name, io.BytesIO(data))

    @property
    def is_packed(self) -> bool:
        """Whether the file is gzipped, by its first two bytes."""
        return self._packed

    def head(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer where the file ends before."""
        data = bytearray(size)
        return bytes(data[: self._fill(memoryview(data))])

    def exactly(self, size: int) -> bytearray:
        """Return the next `size` bytes; FileFormatError where the file ends before."""
        data = bytearray(size)
        found = self._fill(memoryview(data))
        if found < size:
            raise FileFormatError(
                f"{self._name} is cut off or damaged: {size - found:,} bytes short",
                hint=_COPY_HINT,
            )
        return data

    def check_sum(self) -> None:
        """Test the checksum of a gzip member that ends here; FileFormatError where it is wrong."""
        if self._stream is not None and not self._stream.eof:
            self._unpack(1)

    def expect_end(self, size: int) -> None:
        """Raise FileFormatError unless the file ends here, after the `size` bytes it announces."""
        more = self.head(1) if self._stream is None else self._unpack(1)
        rest = b"" if self._stream is None else self._stream.unused_data or self._file.read(1)
        if more or rest:
            raise FileFormatError(
                f"{self._name} holds more than the {size:,} bytes that its header announces"
            )
        if self._stream is not None and not self._stream.eof:
            raise FileFormatError(f"{self._name} is cut off: its checksum is missing")

    def _peek(self) -> bytes:
        try:
            start = self._file.read(len(GZIP_MAGIC))
            self._file.seek(0)
        except OSError as error:
            raise unreadable(self._name, error) from None
        return start

    def _fill(self, out: memoryview) -> int:
        """Write into `out` until it is full or the file ends; return how many bytes there are."""
        filled = 0
        try:
            while filled < len(out):
                part = (
                    self._file.read(min(len(out) - filled, _MOST_FEED_BYTES))
                    if self._stream is None
                    else self._unpack(min(len(out) - filled, _MOST_FEED_BYTES))
                )
                if not part:
                    # A file may be made of several gzip members, each with its own end.
                    if self._next_member():
                        continue
                    break
                out[filled : filled + len(part)] = part
                filled += len(part)
        except OSError as error:
            raise unreadable(self._name, error) from None
        return filled

    def _unpack(self, size: int) -> bytes:
        """Unpack at most `size` bytes, none at the end of a member or of the file."""
        from isal import isal_zlib

        assert self._stream is not None
        try:
            while not self._stream.eof:
                fed = self._left or self._file.read(self._feed_bytes)
                part = self._stream.decompress(fed, size)
                self._left = self._stream.unconsumed_tail
                # Feeding little at first keeps a file of many short members linear: what a member
                # leaves over is copied, and is then never more than a kilobyte.
                self._feed_bytes = min(self._feed_bytes * 4, _MOST_FEED_BYTES)
                if part or not fed:
                    return bytes(part)
        except isal_zlib.error as error:  # type: ignore[misc]  # the stub: an instance
            raise FileFormatError(
                f"{self._name} is cut off or damaged: {error}", hint=_COPY_HINT
            ) from None
        return b""

    def _next_member(self) -> bool:
        """Begin the gzip member behind the one that has ended; False where none follows."""
        if self._stream is None or not self._stream.eof:
            return False

        rest = self._stream.unused_data
        if len(rest) < _FIRST_FEED_BYTES:
            rest += self._file.read(_FIRST_FEED_BYTES)
        if rest[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            return False

        # What is left of a large feed goes back to the file, or each member would copy it again.
        self._left = rest[:_FIRST_FEED_BYTES]
        self._file.seek(len(self._left) - len(rest), os.SEEK_CUR)
        self._feed_bytes = _FIRST_FEED_BYTES
        self._stream = self._new_stream()
        return True

    def _new_stream(self) -> "_Decompressor":
        from isal import isal_zlib

        return cast(_Decompressor, isal_zlib.decompressobj(_GZIP_WINDOW_BITS))


class _Decompressor(Protocol):
    """Name what is used of `isal_zlib.Decompress`, whose own stub has no type to name."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See `zlib.Decompress.decompress`."""


def unreadable(name: str, error: Exception) -> FileFormatError:
    """Say why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return FileFormatError(f"{name} does not exist")
    reason = getattr(error, "strerror", None) or str(error)
    return FileFormatError(f"cannot read {name}: {reason}", hint=_COPY_HINT)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((word for test, word in kinds.items() if test(mode)), "device")
