"""HTTP as this project uses it.

Https only, redirects by hand to hosts on a list, timeouts, retries with backoff, byte ranges.

Plain http is for a server on this very machine (127.0.0.1, localhost, ::1), and only where the user
named it.
"""

import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.auth import AuthBase

from hemseg_cli import __version__
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError

REDIRECT_HOSTS = (
    "raw.githubusercontent.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "codeload.github.com",
    "github.com",
    "www.kaggle.com",
    "api.kaggle.com",
    "storage.googleapis.com",
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_MAX_REDIRECTS = 5
_MAX_BACKOFF_S = 60.0
_MAX_RETRY_AFTER_S = 900.0
_PIECE = 256 * 1024
_LEAST_BYTES = 1024  # fewer in `timeout_s` is a stall, however steadily they drip

# Not OSError as a whole: a full disk is no reason to ask the server again.
TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)


class HttpError(HemsegError):
    """The server answered with an error status."""

    def __init__(
        self, message: str, *, hint: str = "", status: int = 0, retry_after: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.retry_after = status, retry_after

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TRY_AGAIN


class StalledError(ConnectionError):
    """The connection is open and next to nothing comes."""


@dataclass(frozen=True)
class HttpSettings:
    """`hosts`: where redirects may lead, besides the first host and `REDIRECT_HOSTS`.

    `header`: the Authorization sent to the server of the URL `header_for`, and to no other.
    """

    timeout_s: float = 30.0
    retries: int = 5
    backoff_s: float = 1.0
    hosts: tuple[str, ...] = ()
    header: str | None = field(default=None, repr=False)
    header_for: str = ""


class _Authorization(AuthBase):
    """Sets the header itself: without an auth object requests would take one from ~/.netrc instead."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header is not None:
            request.headers["Authorization"] = self._header
        return request


def check_url(url: str) -> None:
    """UsageError unless `url` is https, or http to this machine, without a user name in it."""
    parts = _split(url)
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{shown(url)}: a URL may not carry a user name or password")
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    ):
        raise UsageError(
            f"{shown(url)}: only https:// is downloaded from",
            hint="download it by hand and give --source FILE",
        )


def is_url(text: str) -> bool:
    """Whether `text` names a URL rather than a path."""
    return "://" in text


def shown(url: str) -> str:
    """The URL without query and user name, which may carry a signature or a token.

    Fit for messages and logs.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


class Client:
    """One session: keeps connections open, remembers nothing else.

    Not for use by two threads at once.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self._session = requests.Session()

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    @contextlib.contextmanager
    def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> Iterator[tuple[requests.Response, str]]:
        """One answer (status 200 or 206) and the URL that gave it, redirects followed.

        Raises HttpError for other statuses, TRANSIENT.
        """
        first = current = url
        for _ in range(_MAX_REDIRECTS + 1):
            check_url(current)
            secret = (
                self.settings.header
                if _origin(current) == _origin(self.settings.header_for)
                else None
            )
            with self._request(method, current, headers or {}, secret) as response:
                if response.status_code not in _REDIRECTS:
                    _check_status(response, current)
                    yield response, current
                    return
                current = self._redirected(first, current, response.headers.get("Location", ""))
        raise HemsegError(f"{shown(first)} redirects more than {_MAX_REDIRECTS} times")

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], secret: str | None
    ) -> requests.Response:
        try:
            return self._session.request(
                method,
                url,
                headers={
                    "Accept-Encoding": "identity",
                    "User-Agent": f"hemseg/{__version__}",
                    **headers,
                },
                auth=_Authorization(secret),
                stream=True,
                allow_redirects=False,
                timeout=self.settings.timeout_s,
            )
        except TRANSIENT:
            raise
        except requests.RequestException as error:
            raise HemsegError(f"cannot ask {shown(url)}: {error}") from None

    def _redirected(self, first: str, current: str, location: str) -> str:
        target = urljoin(current, location)
        parts, origin = _split(target), _split(first)
        local = (
            origin.hostname in _LOOPBACK and parts.hostname in _LOOPBACK and parts.scheme == "http"
        )
        if not location or not (local or parts.scheme == "https"):
            raise HemsegError(
                f"{shown(first)} redirects to {shown(target)!r}, which is not https; refused"
            )
        allowed = (origin.hostname, *REDIRECT_HOSTS, *self.settings.hosts)
        if not local and parts.hostname not in allowed:
            raise HemsegError(
                f"{shown(first)} redirects to {parts.hostname}, a host that is not on the list",
                hint=f"if you trust it: --set 'fetch.redirect_hosts=[\"{parts.hostname}\"]'",
            )
        return target

    def waits(self, what: str) -> Iterator[int]:
        """The attempts 0, 1, ...: between two of them it waits, longer each time.

        The caller leaves the loop when it is done.
        """
        for attempt in range(self.settings.retries + 1):
            if attempt:
                pause = min(
                    _MAX_BACKOFF_S, self.settings.backoff_s * 2 ** (attempt - 1)
                ) * random.uniform(0.75, 1.25)
                console.log.info("%s: waiting %.1f s before attempt %d", what, pause, attempt + 1)
                time.sleep(pause)
            yield attempt

    def wait_as_told(self, error: HttpError) -> None:
        """After 429 or 503: wait as long as the server asks (`Retry-After` in seconds), and say so."""
        text = error.retry_after or ""
        seconds = (
            min(_MAX_RETRY_AFTER_S, float(text))
            if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text)
            else 0.0
        )
        if seconds > 0:
            console.say(f"{error.message}; waiting {seconds:g} s as the server asks")
            time.sleep(seconds)


def body(response: requests.Response, *, timeout_s: float, limit: int) -> Iterator[bytes]:
    """The body in pieces, at most `limit` bytes of it.

    StalledError where next to nothing comes, TRANSIENT where it breaks off.
    """
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise HemsegError(
            f"{shown(response.url)}: the server recodes the file ({response.headers['Content-Encoding']}); refused"
        )
    window_start, window_bytes, left = time.monotonic(), 0, limit
    while left > 0:
        piece: bytes = response.raw.read1(min(_PIECE, left), decode_content=False)
        if not piece:
            return
        left -= len(piece)
        window_bytes += len(piece)
        elapsed = time.monotonic() - window_start
        if elapsed > timeout_s:
            if window_bytes < min(_LEAST_BYTES, limit):
                raise StalledError(f"{window_bytes} bytes in {elapsed:.1f} s")
            window_start, window_bytes = time.monotonic(), 0
        yield piece


def content_range(response: requests.Response) -> tuple[int, int, int] | None:
    """`Content-Range: bytes first-last/total` as three numbers.

    None where there is none that can be used.
    """
    kind, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    if kind != "bytes" or not all(
        text.isdecimal() and text.isascii() for text in (first, last, total)
    ):
        return None
    return int(first), int(last), int(total)


def _check_status(response: requests.Response, url: str) -> None:
    if response.status_code in (200, 206):
        return
    raise HttpError(
        f"{shown(url)}: the server answered {response.status_code} {response.reason}",
        status=response.status_code,
        retry_after=response.headers.get("Retry-After"),
    )


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url[:200]!r} is not a URL: {error}") from None
    return parts


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = _split(url)
    return parts.scheme, parts.hostname, parts.port
