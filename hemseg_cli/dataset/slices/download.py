"""Files of known size and hash: downloaded with resume, or found in a folder.

Whatever does not match is refused with both hashes.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.dataset.labels.published import SourceFile
from hemseg_cli.dataset.slices.http import (
    TRANSIENT,
    Client,
    HttpError,
    HttpSettings,
    StalledError,
    body,
    check_url,
    content_range,
    shown,
)

_SMALL_BYTES = 1 * 2**20
_CONNECTION = re.compile(r"^HTTPS?Connection(Pool)?\([^)]*\): ")


def verify(path: Path, expected: SourceFile, *, place: str | None = None) -> None:
    """FileFormatError with both hashes unless the file is the expected one.

    HemsegError where it cannot be read.

    `place` stands in messages instead of the path.
    """
    place = place or str(path)
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise FileFormatError(
                f"{place} is not {expected.path}: {size:,} bytes, expected {expected.bytes:,}\n"
                f"  sha256 expected {expected.sha256}\n  sha256 found    {_sha256(path)}",
                hint="refused; get the file again from the published repository",
            )
        found = _sha256(path)
    except OSError as error:
        raise HemsegError(f"cannot read {place}: {error.strerror or error}") from None
    if found != expected.sha256:
        raise FileFormatError(
            f"{place} is not {expected.path}: its hash is wrong\n  sha256 expected {expected.sha256}\n  sha256 found    {found}",
            hint="refused; get the file again from the published repository",
        )


def download(url: str, target: Path, expected: SourceFile, settings: HttpSettings) -> None:
    """Download to `target`, which appears only once size and hash are right.

    A broken connection is taken up again where it stopped, also by the next run (`.<name>.partial`
    beside the target). Raises HttpError (404 ...), FileFormatError (wrong hash), HemsegError
    (retries used up, wrong size, redirect off the list).
    """
    check_url(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, target, expected, settings)
    except OSError as error:  # the network's have been dealt with: this is the disk
        raise HemsegError(
            f"cannot write {target}: {error.strerror or error}",
            hint="free the disk, then run the same command",
        ) from error


def _download(url: str, target: Path, expected: SourceFile, settings: HttpSettings) -> None:
    partial = target.with_name(f".{target.name}.partial")
    client = Client(settings)
    with (
        contextlib.closing(client),
        console.live(f"download {expected.name}", total=expected.bytes, unit="B") as track,
    ):
        resumed = _size(partial) > 0
        _load(client, url, partial, expected, track)
        try:
            verify(partial, expected, place=shown(url))
        except FileFormatError:
            partial.unlink(missing_ok=True)
            if not resumed:
                raise
            console.warn(
                f"{expected.name}: what an earlier download left does not fit; downloading it from the start"
            )
            _load(client, url, partial, expected, track)
            try:
                verify(partial, expected, place=shown(url))
            except FileFormatError:
                partial.unlink(missing_ok=True)
                raise
    partial.replace(target)


def download_small(url: str, settings: HttpSettings) -> bytes:
    """A small file of unknown size (at most 1 MiB)."""
    parts: list[bytes] = []

    def receive(client: Client) -> bytes:
        parts.clear()
        with client.get(url) as (response, _):
            parts.extend(body(response, timeout_s=settings.timeout_s, limit=_SMALL_BYTES + 1))
        return b"".join(parts)

    check_url(url)
    with contextlib.closing(Client(settings)) as client:
        data = with_retries(client, shown(url), receive)
    if len(data) > _SMALL_BYTES:
        raise HemsegError(f"{shown(url)} is larger than {_SMALL_BYTES:,} bytes; refused")
    return data


def with_retries(client: Client, what: str, attempt: Callable[[Client], bytes]) -> bytes:
    """`attempt(client)`, again after an error that may pass.

    HemsegError naming the last one when the retries are used up.
    """
    last = ""
    for _ in client.waits(what):
        try:
            return attempt(client)
        except HttpError as error:
            if not error.may_pass:
                raise
            last = error.message
            client.wait_as_told(error)
        except TRANSIENT as error:
            last = reason(error, client.settings)
    raise given_up(what, client.settings, last)


def given_up(what: str, settings: HttpSettings, last: str) -> HemsegError:
    """The error for a download whose retries are used up."""
    return HemsegError(
        f"cannot download {what}: gave up after {settings.retries + 1} attempts; the last one: {last}",
        hint="run the same command again: it goes on where it stopped; or give --source FILE",
    )


def reason(error: BaseException, settings: HttpSettings) -> str:
    """A transient error in a few words, without the query of a URL.

    A signed link has its signature there.
    """
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = _CONNECTION.sub("", re.sub(r"\?\S+", "?...", str(inner or error)))[:300]
    if isinstance(error, StalledError) or "timed out" in text.lower():
        return f"the server stalled (nothing for {settings.timeout_s:g} s)"
    return text if type(error) is ConnectionError else f"{type(inner or error).__name__}: {text}"


def _load(
    client: Client, url: str, partial: Path, expected: SourceFile, track: console.Track
) -> None:
    """Bring `partial` to the expected size."""
    if _size(partial) > expected.bytes:
        partial.unlink()
    last = ""
    for _ in client.waits(expected.name):
        if _size(partial) == expected.bytes:
            return
        try:
            _receive(client, url, partial, expected, track)
            if _size(partial) == expected.bytes:
                return
            last = f"the connection closed after {_size(partial):,} of {expected.bytes:,} bytes"
        except HttpError as error:
            if error.status == 416:
                partial.unlink(missing_ok=True)
            elif not error.may_pass:
                raise
            last = error.message
            client.wait_as_told(error)
        except TRANSIENT as error:
            last = reason(error, client.settings)
    raise given_up(shown(url), client.settings, last)


def _receive(
    client: Client, url: str, partial: Path, expected: SourceFile, track: console.Track
) -> None:
    have = _size(partial)
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.get(url, headers) as (response, _):
        if response.status_code == 206:
            span = content_range(response)
            if span is None or span[0] != have or span[2] != expected.bytes:
                partial.unlink(missing_ok=True)
                raise ConnectionError(
                    f"the server answered with another range ({response.headers.get('Content-Range')})"
                )
        else:
            have = 0
            _check_announced(response.headers.get("Content-Length"), url, expected)
        track.update(done=have)
        with partial.open("r+b" if have else "wb", buffering=0) as file:
            file.seek(have)
            for piece in body(
                response, timeout_s=client.settings.timeout_s, limit=expected.bytes - have + 1
            ):
                have += len(piece)
                if have > expected.bytes:
                    raise _wrong_size(url, f"more than {expected.bytes:,} bytes", expected)
                file.write(piece)
                track.update(done=have)


def _check_announced(length: str | None, url: str, expected: SourceFile) -> None:
    if length is not None and length.isdecimal() and int(length) != expected.bytes:
        raise _wrong_size(url, f"{int(length):,} bytes", expected)


def _wrong_size(url: str, found: str, expected: SourceFile) -> HemsegError:
    return HemsegError(
        f"{shown(url)} is not {expected.path}: the server sends {found}, expected {expected.bytes:,}",
        hint="refused; --source names a mirror, a file or a folder",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
