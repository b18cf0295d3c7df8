"""The server of a live page: to this machine alone, and nothing twice."""

import contextlib
import http.client
import json
import socket
import threading
import time
from typing import NamedTuple

import pytest

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.report.serve import CONNECTIONS, PORT, LivePage, open_server

DATA = {"title": "a", "runs": [], "compare": None}


class Counted:
    """Data that change when told, and count how often they were made."""

    def __init__(self):
        self.version, self.made, self.broken = 1, 0, False

    def data(self):
        if self.broken:
            raise RunFolderError("the run has begun anew")
        self.made += 1
        return DATA | {"title": f"version {self.version}"}


class Served(NamedTuple):
    port: int
    token: str


@contextlib.contextmanager
def running(source, port=0):
    with open_server(source, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield Served(server.server_port, source.token)
        finally:
            server.shutdown()
            thread.join()


def ask(served, path="/", method="GET", host="127.0.0.1", *, token=True, **headers):
    port, path = served.port, f"/{served.token}{path}" if token else path
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host if ":" in host or not host else f"{host}:{port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def port(counted):
    with running(LivePage(lambda: counted.version, counted.data)) as port:
        yield port


def test_the_page_and_its_data(port):
    status, headers, body = ask(port)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'data-mode="live"' in body
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    for host in ("localhost", "LOCALHOST:80", "localhost:"):
        status, headers, body = ask(port, "/data.json", host=host)
        assert (status, json.loads(body)["title"]) == (200, "version 1")


def test_nothing_is_made_or_sent_again_unless_it_changed(port, counted):
    _, headers, _ = ask(port, "/data.json")
    tag = headers["ETag"]
    status, _, body = ask(port, "/data.json", If_None_Match=tag)
    assert (status, body, counted.made) == (304, b"", 1)
    counted.version = 2
    status, _, body = ask(port, "/data.json", If_None_Match=tag)
    assert (status, json.loads(body)["title"], counted.made) == (200, "version 2", 2)


def test_a_run_that_cannot_be_read_for_a_moment_shows_its_last_state(port, counted):
    counted.version, counted.broken = 2, True
    assert json.loads(ask(port, "/data.json")[2])["title"] == "version 1"
    counted.broken = False
    assert json.loads(ask(port, "/data.json")[2])["title"] == "version 2"


def test_head_sends_no_body(port):
    status, headers, body = ask(port, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80", None, "", "[::1]:80"])
def test_a_host_of_another_name_is_refused(port, host):
    status, _, body = ask(port, "/data.json", host=host)
    assert (status, body) == (403, b"only localhost and 127.0.0.1\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(port, method):
    status, headers, _ = ask(port, "/data.json", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/../config.yaml", "/config.yaml", "//x", "/data.json/", "/%2e%2e/x"])
def test_no_other_file_is_served(port, path):
    assert ask(port, path)[0] == 404


def test_queries(port):
    assert ask(port, "/data.json?x=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/data.json", "/index.html", "/favicon.ico", "//", "/x/data.json", "/%C3%A9/"])
def test_without_its_token_nothing_is_served(port, path):
    assert ask(port, path, token=False)[0] == 404


def test_a_token_is_long_and_never_the_same(counted):
    tokens = {LivePage(lambda: 1, counted.data).token for _ in range(3)}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


def test_connections_are_bounded(port):
    """So many that say nothing are held, and what comes after them is closed at once; then it answers again."""
    idle = [socket.create_connection(("127.0.0.1", port.port)) for _ in range(CONNECTIONS)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # until all of them have been taken
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(port)
            continue
        break
    else:
        pytest.fail(f"more than {CONNECTIONS} connections were answered")
    for connection in idle:
        connection.close()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert ask(port)[0] == 200
            return
    pytest.fail("it answers no more")


def test_it_listens_on_this_machine_alone(counted):
    with open_server(LivePage(lambda: 1, counted.data), 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken(counted):
    source = LivePage(lambda: 1, counted.data)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = held.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"port {taken} on 127.0.0.1 cannot be used \(Address already in use\); let"
        ):
            open_server(source, taken)


def test_the_next_port_where_the_default_is_taken(counted):
    source = LivePage(lambda: 1, counted.data)
    with open_server(source) as first, open_server(source) as second:
        assert PORT <= first.server_port < second.server_port
