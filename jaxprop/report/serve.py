"""Serves the page of runs that are in progress, to this machine only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Hashable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jaxprop.errors import JaxpropError, UsageError
from jaxprop.report.page import encode, render

HOST = "127.0.0.1"
PORT = 8765
TRIED = 20  # number of ports tried, from the default one on
NAMES = ("127.0.0.1", "localhost")
CONNECTIONS = 16  # answered at a time
HTML, JSON = "text/html; charset=utf-8", "application/json; charset=utf-8"


class LivePage:
    """The page and its data, which are updated when a file of the runs has changed.

    Other programs and users of this machine can reach the port, so the page is at an address that only its reader is
    told.

    Args:
      signature: returns a value that changes with the files.
      data: returns the data that the page draws.

    Example:
      >>> page = LivePage(lambda: 1, lambda: {"title": "a", "runs": [], "compare": None})
      >>> page.newest()[0]
      b'{"title":"a","runs":[],"compare":null}'
    """

    def __init__(self, signature: Callable[[], Hashable], data: Callable[[], dict[str, Any]]):
        self._signature, self._data = signature, data
        self.token = secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self._seen = signature()
        self._made = self._make()

    def url(self, port: int) -> str:
        """Returns the address of the page on a port of this machine."""
        return f"http://{HOST}:{port}/{self.token}/"

    def newest(self) -> tuple[bytes, bytes]:
        """Returns the data as JSON, and the page; the previous ones while a restarted run has no records yet."""
        with self._lock:
            now = self._signature()
            if now != self._seen:
                with contextlib.suppress(JaxpropError):
                    self._made, self._seen = self._make(), now
            return self._made

    def _make(self) -> tuple[bytes, bytes]:
        data = self._data()
        return encode(data).encode(), render(data, live=True).encode("utf-8", "replace")


class _Server(ThreadingHTTPServer):
    """Answers a bounded number of connections at a time; one more is closed at once."""

    def __init__(self, *arguments: Any):
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a connection that its other end has dropped, because the console shows the run."""


def open_server(page: LivePage, port: int | None = None) -> ThreadingHTTPServer:
    """Returns a server on the loopback address; `serve_forever` starts it.

    Args:
      page: the page and its data.
      port: the port; 0 for any free one, None for 8765 or the next free one.

    Raises:
      UsageError: the port is taken or not allowed.
    """
    ports = range(PORT, PORT + TRIED) if port is None else [port]
    for candidate in ports:
        try:
            return _Server((HOST, candidate), _handler(page))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
    which = f"port {port}" if port is not None else f"every port from {PORT} to {PORT + TRIED - 1}"
    raise UsageError(f"{which} on {HOST} cannot be used ({why}); let --port 0 take any free one")


def _handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", "text/plain", Allow="GET, HEAD")

        do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_POST

        def _answer(self) -> None:
            # Protects against DNS rebinding: another site may resolve its name to this address and read the data.
            if self.headers.get("Host", "").lower().partition(":")[0] not in NAMES:
                return self._send(HTTPStatus.FORBIDDEN, b"only localhost and 127.0.0.1\n", "text/plain")
            token, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
            known = hmac.compare_digest(token.encode("utf-8", "replace"), page.token.encode())
            if not known or path not in ("", "index.html", "data.json"):
                return self._send(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            data, html = page.newest()
            body, kind = (data, JSON) if path == "data.json" else (html, HTML)
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == tag:
                return self._send(HTTPStatus.NOT_MODIFIED, b"", kind, ETag=tag)
            return self._send(HTTPStatus.OK, body, kind, ETag=tag)

        def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
            self.send_response(status)
            headers |= {"Content-Type": kind, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
            headers |= {"Content-Security-Policy": "frame-ancestors 'none'"}
            headers |= {"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}
            if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
                headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Logs nothing, because the console shows the run."""

    return Handler
