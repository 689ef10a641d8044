"""Ask web servers: https only, redirects to hosts on a list, deadlines, retries with backoff.

Plain http is for a server on this very machine (127.0.0.1, localhost, ::1), and only where the user
named it. A server that sends a byte now and then holds nobody: the whole head of an answer has one
deadline, and a body has a lowest rate (see `connections`).
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.auth import AuthBase

from hemseg_cli import __version__
from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.connections import GuardedAdapter, guard_of
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.printable import printable

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
_RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MOST_REDIRECTS = 5
_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 900.0
_PIECE_BYTES = 256 * 1024
_LEAST_BYTES_PER_TIMEOUT = 1024  # fewer in `timeout_s` is a stall, however steadily they drip
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_LOCATION_ASIDE = "X-Hemseg-Location"
_CONNECTION = re.compile(r"^HTTPS?Connection(Pool)?\([^)]*\): ")

R = TypeVar("R")

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
        return self.status in _RETRIED_STATUSES


class StalledError(ConnectionError):
    """The connection is open and next to nothing comes."""


@dataclass(frozen=True)
class HttpSettings:
    """How servers are asked.

    `timeout_s`: seconds for the whole head of an answer, and in which at least a KiB of its body
    has to come. `hosts`: where redirects may lead, besides the first host and `REDIRECT_HOSTS`.
    `header`: the Authorization sent to the server of the URL `header_for`, and to no other.
    """

    timeout_s: float = 30.0
    retries: int = 5
    backoff_s: float = 1.0
    hosts: tuple[str, ...] = ()
    header: str | None = field(default=None, repr=False)
    header_for: str = ""


def http_settings(config: Config) -> HttpSettings:
    """Return the network keys of `[fetch]`."""
    fetch = config.fetch
    return HttpSettings(fetch.timeout_s, fetch.retries, fetch.backoff_s, fetch.redirect_hosts)


class _Authorization(AuthBase):
    """Set the header itself: without an auth object requests takes one from ~/.netrc instead."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header is not None:
            request.headers["Authorization"] = self._header
        return request


def check_url(url: str) -> None:
    """Check that `url` is https, or http to this machine, without a user name; else UsageError."""
    parts = _split(url)
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{shown(url)}: a URL may not carry a user name or password")
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    ):
        raise UsageError(
            f"{shown(url)}: only https:// is downloaded from",
            hint="download it by hand and name the file instead",
        )


def is_url(text: str) -> bool:
    """Tell whether `text` names a URL rather than a path."""
    return "://" in text


def shown(url: str) -> str:
    """Return the URL without query and user name, which may carry a signature or a token.

    Every URL that is printed, logged or stored goes through here.
    """
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, mark, rest = plain.partition("://")
    host, slash, path = rest.partition("/")
    return printable(f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"[:500])


class Client:
    """A session that keeps connections open. Not for use by two threads at once."""

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self._session = requests.Session()
        self._session.hooks["response"] = [_set_location_aside]
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, GuardedAdapter(settings.timeout_s))

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    @contextlib.contextmanager
    def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> Iterator[tuple[requests.Response, str]]:
        """Yield one answer (status 200 or 206) and the URL that gave it, redirects followed.

        Raises HttpError for other statuses, TRANSIENT.
        """
        first = current = url
        check_url(first)
        for _ in range(_MOST_REDIRECTS + 1):
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
                current = self._redirected(
                    first, current, response.headers.get(_LOCATION_ASIDE, "")
                )
        raise HemsegError(f"{shown(first)} redirects more than {_MOST_REDIRECTS} times")

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
        """Return where a redirect leads; HemsegError where that is not on the list."""
        try:
            target = urljoin(current, location)
            check_url(target)
        except (ValueError, UsageError):
            target = ""
        if not location or not target:
            raise HemsegError(
                f"{shown(first)} redirects to {shown(location)!r}, which is not https; refused"
            )

        parts, origin = _split(target), _split(first)
        if origin.hostname in _LOOPBACK and parts.hostname in _LOOPBACK:
            return target
        if parts.scheme != "https":
            raise HemsegError(
                f"{shown(first)} redirects to {shown(target)!r}, which is not https; refused"
            )
        if parts.hostname not in (origin.hostname, *REDIRECT_HOSTS, *self.settings.hosts):
            raise HemsegError(
                f"{shown(first)} redirects to {parts.hostname}, a host that is not on the list",
                hint=f"if you trust it: --set 'fetch.redirect_hosts=[\"{parts.hostname}\"]'",
            )
        return target

    def retry(self, what: str, attempt: Callable[["Client"], R], *, hint: str = "") -> R:
        """Call `attempt(self)`, again after an error that may pass, waiting longer each time.

        HemsegError names the last error when the retries are used up.
        """
        last = ""
        for number in range(self.settings.retries + 1):
            if number:
                self._wait(what, number)
            try:
                return attempt(self)
            except HttpError as error:
                if not error.may_pass:
                    raise
                last = error.message
                _wait_as_told(error)
            except TRANSIENT as error:
                last = self._reason(error)
        raise HemsegError(
            f"cannot download {what}: gave up after {self.settings.retries + 1} attempts; "
            f"the last one: {last}",
            hint=hint or "run the same command again: it goes on where it stopped",
        )

    def _wait(self, what: str, number: int) -> None:
        """Wait before an attempt: exponential backoff with jitter."""
        pause = min(_LONGEST_BACKOFF_S, self.settings.backoff_s * 2 ** (number - 1))
        pause *= random.uniform(0.75, 1.25)
        console.log.info("%s: waiting %.1f s before attempt %d", what, pause, number + 1)
        time.sleep(pause)

    def _reason(self, error: BaseException) -> str:
        """Describe a transient error in a few words, without the query of a URL (a signature)."""
        inner = getattr(error.args[0], "reason", None) if error.args else None
        text = _CONNECTION.sub("", re.sub(r"\?\S+", "?...", str(inner or error)))[:300]
        if isinstance(error, StalledError) or "timed out" in text.lower():
            return f"the server stalled (next to nothing for {self.settings.timeout_s:g} s)"
        return (
            text if type(error) is ConnectionError else f"{type(inner or error).__name__}: {text}"
        )


def _set_location_aside(response: requests.Response, **_: Any) -> None:
    """Keep requests from parsing where a redirect leads: it fails on nonsense, we refuse it."""
    if "Location" in response.headers:
        response.headers[_LOCATION_ASIDE] = response.headers.pop("Location")


def _wait_as_told(error: HttpError) -> None:
    """Wait as long as the server asks after 429 or 503 (`Retry-After` in seconds), and say so."""
    text = error.retry_after or ""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return
    seconds = min(_LONGEST_RETRY_AFTER_S, float(text))
    if seconds > 0:
        console.say(f"{error.message}; waiting {seconds:g} s as the server asks")
        time.sleep(seconds)


def read_body(response: requests.Response, *, timeout_s: float, limit: int) -> Iterator[bytes]:
    """Read the body in pieces, at most `limit` bytes of it.

    StalledError where fewer than `_LEAST_BYTES_PER_TIMEOUT` come in `timeout_s`, TRANSIENT where
    the connection breaks off.
    """
    coding = response.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("identity", ""):
        raise HemsegError(
            f"{shown(response.url)}: the server recodes the file ({coding[:40]}); refused"
        )

    guard = guard_of(response)
    window_end, window_bytes, left = time.monotonic() + timeout_s, 0, limit
    while left > 0:
        # The guard cuts a read that would go on beyond the window: a chunk's size can drip, too.
        with guard.cutting_at(window_end):
            piece: bytes = response.raw.read1(min(_PIECE_BYTES, left), decode_content=False)
        if guard.has_cut:
            raise StalledError(f"{window_bytes} bytes in {timeout_s:g} s")
        if not piece:
            return
        left -= len(piece)
        window_bytes += len(piece)
        yield piece

        if window_bytes >= _LEAST_BYTES_PER_TIMEOUT:
            window_end, window_bytes = time.monotonic() + timeout_s, 0


def content_range(response: requests.Response) -> tuple[int, int, int] | None:
    """Read `Content-Range: bytes first-last/total` as three numbers.

    None where there is none that makes sense.
    """
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, total = (int(text) for text in match.groups())
    return (first, last, total) if first <= last < total else None


def announced_bytes(response: requests.Response) -> int | None:
    """Read `Content-Length`, None where there is none that makes sense."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _check_status(response: requests.Response, url: str) -> None:
    if response.status_code in (200, 206):
        return
    reason = printable(response.reason or "")[:100]
    raise HttpError(
        f"{shown(url)}: the server answered {response.status_code} {reason}",
        status=response.status_code,
        retry_after=response.headers.get("Retry-After"),
    )


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{shown(url)!r} is not a URL: {error}") from None
    return parts


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = _split(url)
    return parts.scheme, parts.hostname, parts.port
