"""Files of lines that grow, are cut and are damaged."""

import os

import pytest

from jaxprop.sinks import lines
from jaxprop.sinks.lines import Tail


def more(tail):
    again, blocks = tail.more()
    return again, [record for block in blocks for record in block]


def test_only_what_has_been_added_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    tail = Tail(path)
    assert more(tail) == (True, [])
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert more(tail) == (True, [{"step": 1}, {"step": 2}])
    assert tail.cut
    with open(path, "a") as file:
        file.write('p": 3}\n')
    assert more(tail) == (False, [{"step": 3}])
    assert not tail.cut
    assert more(tail) == (False, [])
    assert tail.damaged == 0


def replaced(path):
    new = path.with_suffix(".new")
    new.write_text('{"step": 7}\n{"step": 8}\n{"step": 9}\n')
    os.replace(new, path)


def cut(path):
    path.write_text('{"step": 7}\n')


def rewritten(path):
    path.write_text('{"step": 7}\n{"step": 8}\n{"step": 9}\n')


@pytest.mark.parametrize("change", [replaced, cut, rewritten])
def test_a_file_that_is_another_one_is_read_from_its_start(tmp_path, change):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\nnoise\n')
    tail = Tail(path)
    more(tail)
    change(path)
    again, records = more(tail)
    assert again
    assert records[0] == {"step": 7}
    assert tail.damaged == 0


def test_a_file_that_is_gone_begins_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n')
    tail = Tail(path)
    more(tail)
    path.unlink()
    assert more(tail) == (True, [])


DAMAGED = [
    b"noise", b"{", b'{"step": 1', b"[1, 2]", b"3", b"null", b"\x00" * 40, b"\xff\xfe{}", b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800',
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: repr(line[:12]))
def test_a_damaged_line_takes_none_of_its_neighbours_along(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n\n{"step": 2}\n')
    tail = Tail(path)
    assert more(tail)[1] == [{"step": 1}, {"step": 2}]
    assert tail.damaged == 1


def test_two_damaged_lines_that_make_sense_together(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1\n"b": 2}\n{"step": 2}\n')
    tail = Tail(path)
    assert more(tail)[1] == [{"step": 2}]
    assert tail.damaged == 2


def test_lines_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 16)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"step": {i}, "name": "{"x" * i}"}}\n' for i in range(50)))
    assert [record["step"] for record in more(Tail(path))[1]] == list(range(50))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_nothing_but_a_regular_file_is_read(tmp_path, kind):
    path, other = tmp_path / "a.jsonl", tmp_path / "other"
    other.write_text('{"secret": 1}\n')
    {"link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(OSError, match=r"link|regular|directory"):
        more(Tail(path))
