"""A web server on 127.0.0.1 that a test starts, and that misbehaves as the test says."""

import contextlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """`files` by path; `script[path]` holds what is done first, one entry per request.

    `requests` is what was asked: (path, headers).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Callable[[BaseHTTPRequestHandler], None]]] = defaultdict(list)
        self.always: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.released = threading.Event()
        self.guard = threading.Lock()
        self.port = 0

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for name, headers in self.requests if name == path]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """The file, or the range of it that was asked for."""
        path = handler.path.lstrip("/").partition("?")[0]
        data = self.files.get(path)
        if data is None:
            handler.send_error(404)
            return
        asked = handler.headers.get("Range")
        first, last = 0, len(data) - 1
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high) if high else last, last)
            if first > last:
                handler.send_error(416)
                return
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        with self.guard:  # before it is sent: the test may look as soon as it has arrived
            self.sent += last - first + 1
        handler.wfile.write(data[first : last + 1])

    # What a server may do instead of answering.

    def stalls_after(self, count: int) -> Callable[[BaseHTTPRequestHandler], None]:
        def act(handler: BaseHTTPRequestHandler) -> None:
            data = self.files[handler.path.lstrip("/")]
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:count])
            self.released.wait(20)

        return act

    def drips(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.files[handler.path.lstrip("/")])))
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not self.released.wait(0.02):
                handler.wfile.write(b"x")

    def resets_after(self, count: int) -> Callable[[BaseHTTPRequestHandler], None]:
        def act(handler: BaseHTTPRequestHandler) -> None:
            data = self.files[handler.path.lstrip("/")]
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:count])
            handler.wfile.flush()
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            handler.close_connection = True

        return act

    def announces(
        self, length: int | None, body: bytes
    ) -> Callable[[BaseHTTPRequestHandler], None]:
        def act(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            if length is not None:
                handler.send_header("Content-Length", str(length))
            handler.end_headers()
            handler.wfile.write(body)
            handler.close_connection = True

        return act

    def redirects(self, location: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def act(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return act

    def status(self, code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def act(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return act


@contextlib.contextmanager
def running() -> Iterator[Site]:
    """A site that answers until the block ends."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.lstrip("/").partition("?")[0]
            site.requests.append((path, dict(self.headers)))
            acts = site.script.get(path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if acts:
                    acts.pop(0)(self)
                elif path in site.always:
                    site.always[path](self)
                else:
                    site.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
