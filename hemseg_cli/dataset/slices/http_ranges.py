"""Read byte ranges of one remote file.

The link behind its address is remembered, and asked for anew when it has expired.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from hemseg_cli.core import console
from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.core.http import (
    Client,
    HttpError,
    HttpSettings,
    check_url,
    content_range,
    read_body,
    shown,
)

# What storage services answer to a signed link whose time is over.
_EXPIRED_STATUSES = (400, 401, 403, 404, 410)
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class RemoteFile:
    """Size and version of the file as the server names them; a changed file has another."""

    bytes: int
    version: str


@dataclass(frozen=True)
class RangeSettings:
    """How ranges are asked for.

    `explain`: HTTP status to (message, hint), for a service whose refusals mean something.
    """

    http: HttpSettings
    explain: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class RangeReader:
    """Reads ranges of `url`.

    Several threads may use it, each with connections of its own; it may be pickled, and the
    connections then stay behind.
    """

    def __init__(self, url: str, settings: RangeSettings) -> None:
        check_url(url)
        self.url = url
        self._settings = settings
        self._link = url
        self._file: RemoteFile | None = None
        self._open()

    def _open(self) -> None:
        self._local = threading.local()
        self._clients: list[Client] = []
        self._guard = threading.Lock()

    def stat(self) -> RemoteFile:
        """Ask for size and version; HemsegError where there are no ranges or no server."""
        if self._file is None:
            self.read(0, 1)
        assert self._file is not None
        return self._file

    def read(self, offset: int, size: int) -> bytes:
        """Read the bytes from `offset`, fewer at the end of the file.

        Retries, renews the link; HemsegError when that does not help.
        """
        return self._client().retry(
            shown(self.url), lambda client: self._once(client, offset, size)
        )

    def read_blocks(self, offset: int, size: int, *, label: str) -> bytes:
        """Read a long range in blocks, with a bar: a broken connection costs one block."""
        if size <= _BLOCK_BYTES:
            return self.read(offset, size)
        data = bytearray()
        with console.live(label, total=size, unit="B") as track:
            while len(data) < size:
                block = self.read(offset + len(data), min(_BLOCK_BYTES, size - len(data)))
                if not block:
                    break
                data += block
                track.update(done=len(data))
        return bytes(data)

    def close(self) -> None:
        """Close the connections of every thread."""
        with self._guard:
            for client in self._clients:
                client.close()
            self._clients.clear()
        self._local = threading.local()

    def __getstate__(self) -> dict[str, object]:
        return {
            "url": self.url,
            "_settings": self._settings,
            "_link": self._link,
            "_file": self._file,
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def _client(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = Client(self._settings.http)
            with self._guard:
                self._clients.append(client)
        return client

    def _once(self, client: Client, offset: int, size: int) -> bytes:
        link = self._link
        try:
            return self._ask(client, link, offset, size)
        except HttpError as error:
            if link == self.url or error.status not in _EXPIRED_STATUSES:
                raise self._explained(error) from None
        console.log.info("%s: the link has expired, asking for a new one", shown(self.url))
        try:
            return self._ask(client, self.url, offset, size)
        except HttpError as error:
            raise self._explained(error) from None

    def _ask(self, client: Client, link: str, offset: int, size: int) -> bytes:
        with client.get(link, {"Range": f"bytes={offset}-{offset + size - 1}"}) as (
            response,
            final,
        ):
            span = content_range(response)
            if response.status_code != 206 or span is None:
                raise HemsegError(
                    f"{shown(self.url)}: the server sends no byte ranges",
                    hint="download the archive and give its path: --dicom FILE.zip",
                )
            first, last, total = span
            self._check_file(RemoteFile(total, response.headers.get("ETag", "").strip('"')))
            wanted = min(size, total - offset)
            if first != offset or last != offset + wanted - 1:
                raise ConnectionError(
                    f"the server answered with range {first}-{last} instead of "
                    f"{offset}-{offset + wanted - 1}"
                )
            pieces = read_body(response, timeout_s=client.settings.timeout_s, limit=wanted + 1)
            data = b"".join(pieces)
            if len(data) != wanted:
                raise ConnectionError(f"{len(data):,} of {wanted:,} bytes came")
            self._link = final
            return data

    def _check_file(self, file: RemoteFile) -> None:
        if self._file is None:
            self._file = file
        elif self._file.bytes != file.bytes:
            raise CaseError(
                f"{shown(self.url)} changed while it was read: {self._file.bytes:,} bytes, "
                f"now {file.bytes:,}",
                hint="run the command again",
            )

    def _explained(self, error: HttpError) -> HemsegError:
        known = self._settings.explain.get(error.status)
        return (
            error
            if known is None
            else HttpError(
                known[0], hint=known[1], status=error.status, retry_after=error.retry_after
            )
        )
