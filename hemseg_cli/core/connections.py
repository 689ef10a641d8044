"""Connections that are cut when a server keeps them open and sends next to nothing.

A socket's timeout starts anew with every byte, so that a server which drips its status line, its
headers, `100 Continue` answers or the size of a chunk would hold a command for hours. A guard shuts
the connection down at a moment that has been set beforehand, whatever is being read then.
"""

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError


class ConnectionGuard:
    """Shuts one connection down at a set moment. `has_cut`: whether it did."""

    def __init__(self, connection: socket.socket) -> None:
        # A duplicate: TLS takes the socket itself over, and closes it before the body has come.
        # It goes with the last connection or answer that holds the guard.
        self._descriptor = connection.dup().detach()
        weakref.finalize(self, socket.close, self._descriptor)
        self._timer: threading.Timer | None = None
        self.has_cut = False

    def start(self, seconds: float) -> None:
        """Cut the connection after so many seconds, unless it is stopped before."""
        self.stop()
        self._timer = threading.Timer(max(0.0, seconds), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Let the connection be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @contextlib.contextmanager
    def cutting_at(self, moment: float) -> Iterator[None]:
        """Run the block; the connection is cut at `moment` (`time.monotonic`) if it still runs.

        TimeoutError where the block failed because of that.
        """
        self.start(moment - time.monotonic())
        try:
            yield
        except (OSError, HTTPException, HTTPError) as error:
            if self.has_cut:
                raise TimeoutError("timed out") from error
            raise
        finally:
            self.stop()

    def _cut(self) -> None:
        self.has_cut = True
        connection = socket.socket(fileno=self._descriptor)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.detach()


class _Guarded(HTTPConnection):
    """A connection with a deadline for TLS's handshake and one for the head of an answer."""

    head_timeout_s: float = 30.0
    guard: ConnectionGuard | None = None

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        self.guard = ConnectionGuard(connection)
        self.guard.start(self.head_timeout_s)
        return connection

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            if self.guard is not None:
                self.guard.stop()

    def getresponse(self) -> Any:
        guard = self.guard
        assert guard is not None  # set by the connection that the request went over
        with guard.cutting_at(time.monotonic() + self.head_timeout_s):
            response = super().getresponse()
        response.guard = guard  # type: ignore[attr-defined]  # the body is guarded, too
        return response


class _GuardedTLS(_Guarded, HTTPSConnection):
    """The same over TLS."""


class GuardedAdapter(HTTPAdapter):
    """An adapter of requests whose connections have a deadline of `timeout_s` for a whole head."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections, of our kinds."""
        super().init_poolmanager(*args, **kwargs)
        settings = {"head_timeout_s": self._timeout_s}
        plain = type("Plain", (_Guarded,), settings)
        tls = type("TLS", (_GuardedTLS,), settings)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }


def guard_of(response: requests.Response) -> ConnectionGuard:
    """Return the guard of the connection that an answer comes over."""
    raw: Any = response.raw
    guard: ConnectionGuard = raw.guard
    return guard
