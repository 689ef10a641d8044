"""Index a zip of DICOM slices as one sorted table.

Three quarters of a million members take 20 MB, are found by id and shared by workers.

The table is kept in a file and mapped into memory, so that no worker reads the archive's directory
again. Members are read in place: local header, then the packed bytes; size and checksum are
compared.
"""

import contextlib
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.core.files import atomic_path

MAX_SLICE_BYTES = 64 * 2**20
SLACK = 512  # room for a local header whose extra field is longer than expected
_ENTRY = np.dtype(
    [
        ("id", "<u8"),
        ("offset", "<u8"),
        ("packed", "<u4"),
        ("size", "<u4"),
        ("crc", "<u4"),
        ("name", "<u2"),
        ("method", "<u2"),
    ]
)
_MEMBER = re.compile(r"(?:(?:.*/)?stage_2_train/)?ID_([0-9a-f]{9})\.dcm")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_RAW_DEFLATE = -15  # window bits: no zlib header

ReadAt = Callable[[int, int], bytes]

ZIP_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
)
"""What Python's zipfile raises for an archive that is damaged, cut off or not one at all."""


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive on this disk; FileFormatError names it where it is none."""
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_DAMAGE as error:
        raise FileFormatError(
            f"{path} is not a zip archive: {error}", hint="copy or download it again"
        ) from None
    with archive:
        yield archive


@dataclass(frozen=True)
class Member:
    """Where one slice lies in the archive."""

    slice_id: str
    offset: int
    packed: int
    size: int
    crc: int
    name_length: int
    method: int

    @property
    def span(self) -> int:
        """Bytes from the local header to the end of the packed data, with some slack."""
        return _LOCAL_HEADER.size + self.name_length + SLACK + self.packed


class SliceIndex:
    """The members by slice id. `table`: rows of `_ENTRY`, sorted by id."""

    def __init__(self, table: NDArray[Any]) -> None:
        self._table = table
        # Searching the strided column of a mapped table would copy it each time.
        self._ids = np.ascontiguousarray(table["id"])

    @classmethod
    def build(cls, place: str, infos: Iterable[zipfile.ZipInfo]) -> Self:
        """Build the index of an archive.

        FileFormatError names a member that is encrypted, too large, packed by an unknown method or
        there twice.
        """
        rows = []
        for info in infos:
            if match := _MEMBER.fullmatch(info.filename):
                _check(place, info)
                name_length = len(info.orig_filename.encode())
                sizes = (info.compress_size, info.file_size, info.CRC)
                rows.append(
                    (int(match[1], 16), info.header_offset, *sizes, name_length, info.compress_type)
                )
        if not rows:
            raise FileFormatError(
                f"{place} holds no slices",
                hint="they are named ID_<9 hex digits>.dcm, in stage_2_train/ or at the top",
            )
        table = np.array(rows, dtype=_ENTRY)
        table.sort(order="id")
        twice = np.flatnonzero(table["id"][1:] == table["id"][:-1])
        if twice.size:
            raise FileFormatError(f"{place}: slice {table['id'][twice[0]]:09x} stands there twice")
        return cls(table)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Load the index kept in a file, mapped into memory.

        None where there is none that can be used.
        """
        try:
            table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return cls(table) if table.dtype == _ENTRY and table.ndim == 1 else None

    def save(self, path: Path) -> None:
        """Keep the index as a `.npy` file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self._table)

    def find(self, slice_id: str) -> Member | None:
        """Return the member of a slice id (9 hexadecimal digits), None where there is none."""
        number = int(slice_id, 16)
        row = int(np.searchsorted(self._ids, np.uint64(number)))
        if row == len(self._ids) or int(self._ids[row]) != number:
            return None
        _, offset, packed, size, crc, name_length, method = (
            int(value) for value in self._table[row].item()
        )
        return Member(slice_id, offset, packed, size, crc, name_length, method)


def _check(place: str, info: zipfile.ZipInfo) -> None:
    if (
        info.flag_bits & _ENCRYPTED
        or info.compress_type not in (_STORED, _DEFLATED)
        or max(info.file_size, info.compress_size) > MAX_SLICE_BYTES
    ):
        raise FileFormatError(
            f"{place}: cannot read {info.filename}: {info.file_size:,} bytes, "
            f"method {info.compress_type}, flags {info.flag_bits}"
        )


def read_member(place: str, member: Member, read_at: ReadAt) -> bytes:
    """Read the slice's bytes from an archive on this disk.

    `read_at(offset, size)` gives bytes of the archive, fewer at its end.

    CaseError names the slice if the archive is cut off or the member damaged.
    """
    start = member.offset + data_start(place, member, read_at(member.offset, _LOCAL_HEADER.size))
    return unpack(place, member, read_at(start, member.packed))


def data_start(place: str, member: Member, head: bytes) -> int:
    """Count the bytes from the member's local header, which starts `head`, to its data."""
    if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\3\4":
        raise CaseError(
            f"{place}: slice {member.slice_id}: no member where the index says",
            hint="the archive changed or is cut off",
        )
    fields = _LOCAL_HEADER.unpack_from(head)
    return int(_LOCAL_HEADER.size + fields[9] + fields[10])


def unpack(place: str, member: Member, packed: bytes) -> bytes:
    """Unpack the slice's bytes.

    CaseError unless size and checksum are those of the index.
    """
    from isal import isal_zlib

    data = packed if member.method == _STORED else _inflate(place, member, packed)
    if len(data) != member.size or isal_zlib.crc32(data) != member.crc:
        raise CaseError(
            f"{place}: slice {member.slice_id} is damaged: {len(data):,} of {member.size:,} bytes, "
            "or a wrong checksum"
        )
    return data


def _inflate(place: str, member: Member, packed: bytes) -> bytes:
    from isal import isal_zlib

    try:
        return bytes(isal_zlib.decompressobj(_RAW_DEFLATE).decompress(packed, member.size + 1))
    except isal_zlib.error as error:  # type: ignore[misc]  # the stub calls the class an instance
        raise CaseError(f"{place}: slice {member.slice_id} is damaged: {error}") from None
