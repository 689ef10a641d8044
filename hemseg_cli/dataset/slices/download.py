"""Files of known size and hash: downloaded, or found in a folder.

Whatever does not match is refused with both hashes.
"""

import contextlib
import hashlib
from pathlib import Path

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.core.http import (
    Client,
    HttpSettings,
    announced_bytes,
    check_url,
    read_body,
    shown,
)
from hemseg_cli.dataset.labels.published import HashedFile

_MOST_SMALL_BYTES = 2**20
_OTHER_SOURCE = "run the same command again, or give --source FILE"


def verify(path: Path, expected: HashedFile, *, place: str | None = None) -> None:
    """Check that the file is the expected one; FileFormatError with both hashes otherwise.

    HemsegError where it cannot be read. `place` stands in messages instead of the path.
    """
    place = place or str(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HemsegError(f"cannot read {place}: {error.strerror or error}") from None

    if (size, found) != (expected.bytes, expected.sha256):
        wrong = "its hash is wrong"
        if size != expected.bytes:
            wrong = f"{size:,} bytes, expected {expected.bytes:,}"
        raise FileFormatError(
            f"{place} is not {expected.path}: {wrong}\n"
            f"  sha256 expected {expected.sha256}\n  sha256 found    {found}",
            hint="refused; get the file again from the published repository",
        )


def download(url: str, target: Path, expected: HashedFile, settings: HttpSettings) -> None:
    """Download to `target`, which appears only once size and hash are right.

    Raises HttpError (404 ...), FileFormatError (wrong hash), HemsegError (retries used up, wrong
    size, redirect off the list, full disk).
    """
    check_url(url)
    with contextlib.closing(Client(settings)) as client, atomic_path(target) as temporary:
        client.retry(
            shown(url), lambda one: _receive(one, url, temporary, expected), hint=_OTHER_SOURCE
        )
        verify(temporary, expected, place=shown(url))


def download_small(url: str, settings: HttpSettings) -> bytes:
    """Download a small file of unknown size (at most 1 MiB)."""

    def receive(client: Client) -> bytes:
        with client.get(url) as (response, _):
            limit = _MOST_SMALL_BYTES + 1
            return b"".join(read_body(response, timeout_s=settings.timeout_s, limit=limit))

    check_url(url)
    with contextlib.closing(Client(settings)) as client:
        data = client.retry(shown(url), receive, hint=_OTHER_SOURCE)
    if len(data) > _MOST_SMALL_BYTES:
        raise HemsegError(f"{shown(url)} is larger than {_MOST_SMALL_BYTES:,} bytes; refused")
    return data


def _receive(client: Client, url: str, temporary: Path, expected: HashedFile) -> None:
    """Load the whole file, from its start at each attempt: these files are small."""
    with (
        client.get(url) as (response, _),
        console.live(f"download {expected.name}", total=expected.bytes, unit="B") as track,
        temporary.open("wb") as file,
    ):
        announced = announced_bytes(response)
        if announced is not None and announced != expected.bytes:
            raise _wrong_size(url, f"{announced:,} bytes", expected)

        received = 0
        for piece in read_body(
            response, timeout_s=client.settings.timeout_s, limit=expected.bytes + 1
        ):
            received += len(piece)
            file.write(piece)
            track.update(done=received)
    if received > expected.bytes:
        raise _wrong_size(url, f"more than {expected.bytes:,} bytes", expected)
    if received < expected.bytes:
        raise ConnectionError(
            f"the connection closed after {received:,} of {expected.bytes:,} bytes"
        )


def _wrong_size(url: str, found: str, expected: HashedFile) -> HemsegError:
    return HemsegError(
        f"{shown(url)} is not {expected.path}: the server sends {found}, "
        f"expected {expected.bytes:,}",
        hint="refused; --source names a mirror, a file or a folder",
    )
