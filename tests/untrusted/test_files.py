"""Regular files alone are read, through no link, and no more of them than was expected."""

import io
import json
import os
import struct

import pytest

from jaxprop.untrusted import files
from jaxprop.untrusted.files import (
    bounded_lines,
    check_safetensors,
    links_in,
    open_to_read,
    parse_json,
    read_bytes,
    read_json,
)

READERS = {"open": lambda path: open_to_read(path).close(), "bytes": read_bytes, "json": read_json}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, reader):
    (tmp_path / "mine").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("link", "it is a link"), ("pipe", "it is not a regular file"), (".", "Is a directory")):
        with pytest.raises(OSError, match=why):
            READERS[reader](tmp_path / name)
    with pytest.raises(FileNotFoundError):
        READERS[reader](tmp_path / "none")


@pytest.mark.parametrize("reader", READERS)
def test_a_link_laid_at_the_last_moment_is_not_followed(tmp_path, monkeypatch, reader):
    (tmp_path / "mine").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    monkeypatch.setattr(files, "refuse", lambda *_: None)
    with pytest.raises(OSError, match="symbolic links"):
        READERS[reader](tmp_path / "link")


def test_a_file_of_the_most_bytes_and_one_more(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match=r"it is larger than 0 MiB: .*a"):
        read_bytes(tmp_path / "a", 4)


@pytest.mark.parametrize(
    ("text", "why"),
    [("[" * 10**5, "nested too deeply"), ('{"a":' * 10**5, "nested too deeply"), ("[1", "Expecting"),
     ("9" * 10**6, "limit"), ("[" + "[]," * 10**6 + "[]]", "more than 2,000,000 values"),
     (b"\xff\x00", "codec|Expecting")],
)  # fmt: skip
def test_json_that_is_none(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_json_as_usual():
    held = {"a": [1, 2.5, None, "é"], "b": {}}
    assert parse_json(json.dumps(held)) == parse_json(json.dumps(held).encode()) == held
    assert parse_json(json.dumps("," * 3_000_000)[:1] + "a" * 10 + '"') == "a" * 10


def test_lines_that_are_too_long_are_cut_and_those_behind_them_are_whole():
    text = b"a\n" + b"b" * 100 + b"\nlast\nend"
    assert list(bounded_lines(io.BytesIO(text), 8)) == [b"a\n", b"b" * 8, b"last\n", b"end"]
    assert list(bounded_lines(io.BytesIO(b"1234567\n8\n"), 8)) == [b"1234567\n", b"8\n"]


def test_links_at_any_depth(tmp_path):
    run = tmp_path / "run"
    (run / "a" / "b").mkdir(parents=True)
    (run / "a" / "b" / "file").touch()
    (run / "other").symlink_to(tmp_path)
    assert list(links_in(run, ["a", "none"])) == []
    (run / "a" / "b" / "link").symlink_to("file")
    (run / "a" / "down").symlink_to(tmp_path)
    found = {str(path.relative_to(run)) for path in links_in(run, ["a", "other"])}
    assert found == {"a/down", "a/b/link", "other"}  # and nothing of what lies behind them


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "its header has 0 bytes"), (struct.pack("<Q", 2**40) + b"{}", "its header has"),
     (struct.pack("<Q", 3) + b"{}", "its header has 3 bytes of 10")],
)  # fmt: skip
def test_weights_that_are_none(tmp_path, content, why):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(OSError, match=why):
        check_safetensors(tmp_path / "a")


def test_weights_behind_a_link_are_weights(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "b").symlink_to("a")
    check_safetensors(tmp_path / "b")
