"""Read slices from a zip behind a URL.

Only the slices that are asked for are moved, over a few connections, and each is kept as it comes.

The index comes once and is kept; a run that was broken off goes on with the slice at which it
stopped.
"""

import concurrent.futures
import functools
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hemseg_cli.core import console
from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.core.files import write_bytes
from hemseg_cli.core.http import shown
from hemseg_cli.dataset.slices.http_ranges import RangeReader, RangeSettings
from hemseg_cli.dataset.slices.kept_index import KeptIndex
from hemseg_cli.dataset.slices.zip_index import ZIP_DAMAGE, Member, SliceIndex, data_start, unpack

_MOST_DIRECTORY_BYTES = 2**30


class RemoteZipSource:
    """Slices of the zip at `url`.

    `cache` keeps the index and the slices, so that nothing is moved twice.
    """

    def __init__(self, url: str, cache: Path, settings: RangeSettings, *, connections: int) -> None:
        self._reader = RangeReader(url, settings)
        self._slices = cache / "slices"
        self._connections = connections
        file = self._reader.stat()
        key = hashlib.sha256(f"{shown(url)}|{file.bytes}|{file.version}".encode()).hexdigest()[:16]
        self._index = KeptIndex(
            self.place,
            cache / "zip-index" / f"{key}.npy",
            functools.partial(_remote_index, self._reader),
        )

    @property
    def place(self) -> str:
        """The URL, without what is secret in it."""
        return shown(self._reader.url)

    def read(self, slice_id: str) -> bytes:
        """Read one slice: kept from before, or loaded now."""
        return self._get(self._index.member(slice_id))

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """Read the slices in the order asked, several moved at once.

        The first error stops the others; what has come is kept.
        """
        members = [self._index.member(slice_id) for slice_id in slice_ids]
        with concurrent.futures.ThreadPoolExecutor(self._connections) as pool:
            futures = [pool.submit(self._get, member) for member in members]
            try:
                return [future.result() for future in futures]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Return the ids without a member."""
        return self._index.missing(slice_ids)

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Return the bytes to move: packed sizes, 0 for a slice that is kept."""
        members = self._index.members(slice_ids)
        return {
            member.slice_id: 0 if self._file(member).is_file() else member.packed
            for member in members
        }

    def forget(self, slice_ids: Sequence[str]) -> None:
        """Remove the kept slices of a scan that is written."""
        for member in self._index.members(slice_ids):
            self._file(member).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._reader.close()

    def _file(self, member: Member) -> Path:
        return self._slices / f"ID_{member.slice_id}.dcm"

    def _kept(self, member: Member) -> bytes | None:
        """Return the kept slice, if it is this member's."""
        from isal import isal_zlib

        try:
            data = self._file(member).read_bytes()
        except FileNotFoundError:
            return None
        return data if len(data) == member.size and isal_zlib.crc32(data) == member.crc else None

    def _get(self, member: Member) -> bytes:
        return self._kept(member) or self._load(member)

    def _load(self, member: Member) -> bytes:
        try:
            raw = self._reader.read(member.offset, member.span)
            start = data_start(self.place, member, raw)
            end = start + member.packed
            if len(raw) < end:
                raw += self._reader.read(member.offset + len(raw), end - len(raw))
        except CaseError:
            raise
        except HemsegError as error:
            raise CaseError(f"slice {member.slice_id}: {error.message}", hint=error.hint) from None
        data = unpack(self.place, member, raw[start:end])
        write_bytes(self._file(member), data)
        return data


class _Fetcher:
    """Lets remotezip read through our ranges, with their retries and their bar."""

    def __init__(
        self, url: str, session: object, *, support_suffix_range: bool, reader: RangeReader
    ) -> None:
        del url, session, support_suffix_range
        self._reader = reader

    def fetch(self, data_range: tuple[int, int | None], stream: bool = False) -> Any:
        from remotezip import PartialBuffer

        del stream
        total = self._reader.stat().bytes
        first, last = data_range
        start = max(0, total + first) if first < 0 else first
        size = total - start if last is None else min(last + 1, total) - start
        if size > _MOST_DIRECTORY_BYTES:
            raise FileFormatError(
                f"{shown(self._reader.url)}: a directory of {size:,} bytes; refused"
            )
        data = (
            self._reader.read_blocks(start, size, label="index of the archive") if size > 0 else b""
        )
        return PartialBuffer(io.BytesIO(data), start, len(data), False)


def _remote_index(reader: RangeReader) -> SliceIndex:
    from remotezip import RemoteZip, RemoteZipError

    place = shown(reader.url)
    console.say(f"reading the index of {place} ({reader.stat().bytes / 1e9:.1f} GB)")
    try:
        with RemoteZip(reader.url, fetcher=functools.partial(_Fetcher, reader=reader)) as archive:
            return SliceIndex.build(place, archive.infolist())
    except (*ZIP_DAMAGE, RemoteZipError) as error:
        raise FileFormatError(f"{place} is not a zip archive: {error}") from None
