"""Streams that are closed, full, or left by their reader."""

import io
import os
import subprocess
import sys

import pytest

from jaxprop.sinks.streams import Lasting, silence, tell
from tests.cli.test_cli import environment


def broken(descriptor_of):
    """A text stream whose descriptor cannot be written to."""
    return os.fdopen(descriptor_of(), "w")


def left_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("descriptor_of", [left_pipe, full_disk])
def test_a_broken_stream_falls_silent_and_stays_so(descriptor_of):
    stream = broken(descriptor_of)
    lasting = Lasting(stream)
    for _ in range(3):
        assert lasting.write("text\n") == 5
        lasting.flush()
    stream.close()  # what it held has been dropped


@pytest.mark.parametrize("stream", [None, "closed"])
def test_no_stream_at_all(stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    lasting = Lasting(stream)
    lasting.write("text")
    lasting.flush()
    assert lasting.isatty() is False
    with pytest.raises((OSError, ValueError)):
        lasting.fileno()


def test_characters_that_the_encoding_lacks_are_replaced():
    raw = io.BytesIO()
    lasting = Lasting(io.TextIOWrapper(raw, encoding="ascii"))
    lasting.write("1 µs")
    lasting.flush()
    assert raw.getvalue() == b"1 ?s"


def test_what_is_told_has_no_control_characters(capsys, monkeypatch):
    tell("a\x1b[2Jb\x9bc\nd")
    assert capsys.readouterr().err == "a?[2Jb?c\n  d\n"
    monkeypatch.setattr(sys, "stderr", None)
    tell("nobody hears this")
    assert capsys.readouterr().out == ""


def test_silence_of_what_has_no_descriptor():
    silence(None)
    silence(io.StringIO())


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_standard_streams_are_replaced(tmp_path, closed):
    """Else the first file that is opened gets the number of stderr, and with it what libraries print there."""
    code = (
        "import os, sys; from jaxprop.sinks.streams import replace_closed; replace_closed(); file = open('a', 'w');"
        "assert file.fileno() > 2; os.write(2, b'text'); print('x'); print('y', file=sys.stderr)"
    )
    redirects = " ".join(f"{number}>&-" for number in closed)
    command = ["sh", "-c", f'"$0" -c "$1" {redirects}', sys.executable, code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "a").read_text() == ""


def test_only_what_is_forgiven_is_silent():
    stream = broken(left_pipe)
    lasting = Lasting(stream, (BrokenPipeError,))
    lasting.write("text\n")
    lasting.flush()
    lasting.write("more\n")
    stream.close()
    stream = broken(full_disk)
    lasting = Lasting(stream, (BrokenPipeError,))
    lasting.write("text\n")
    with pytest.raises(OSError, match="No space left"):
        lasting.flush()
    silence(stream)
    stream.close()
