"""Blocks of lines: whole, numbered, and there before the end of what is read."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprop.data import standard_input as module
from jaxprop.data.standard_input import line_blocks, standard_input
from jaxprop.errors import DataError


def test_lines_come_without_waiting_for_more(pipe):
    blocks = standard_input()
    pipe.write(b"one\ntwo\nth")
    assert tuple(next(blocks)) == (1, b"one\ntwo\n")
    pipe.write(b"ree\nfour")
    assert tuple(next(blocks)) == (3, b"three\n")
    pipe.close()
    assert [tuple(block) for block in blocks] == [(4, b"four")]


@given(st.binary(max_size=40).map(lambda raw: raw.replace(b"\r", b"\n")), st.integers(1, 7))
def test_blocks_are_whole_lines_and_all_of_them(raw, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", size)
        blocks = list(line_blocks(io.BytesIO(raw)))
    assert b"".join(block.content for block in blocks) == raw
    assert all(block.content.endswith(b"\n") for block in blocks[:-1])
    before = 0
    for block in blocks:
        assert block.first == before + 1
        before += block.content.count(b"\n")


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE", 100)
    monkeypatch.setattr(module, "BLOCK", 64)
    with pytest.raises(DataError, match="stdin:2: is longer than"):
        list(line_blocks(io.BytesIO(b"one\n" + b"x" * 200)))
