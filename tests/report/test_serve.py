"""The server of a live page: to this machine alone, and nothing twice."""

import contextlib
import http.client
import json
import socket
import threading

import pytest

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.report.serve import PORT, LivePage, open_server

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


@contextlib.contextmanager
def running(source, port=0):
    with open_server(source, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port, path="/", method="GET", host="127.0.0.1", **headers):
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


def test_queries_and_icons(port):
    assert ask(port, "/data.json?x=1")[0] == 200
    assert ask(port, "/favicon.ico")[0] == 204


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
