"""CSV: pyarrow and the reader of single records say the same; each record has the line that it begins on."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprop.data.readers.table import delimited
from jaxprop.data.readers.table.delimited import open_delimited, scan, sniff
from jaxprop.data.readers.table.files import Content
from jaxprop.errors import DataError


def content(raw):
    return Content("t.csv", len(raw), lambda: io.BytesIO(raw))


def read(raw, delimiter=","):
    """Records as rows of texts, their lines, and what was left out."""
    table = open_delimited(content(raw), delimiter)
    rows, lines, bad = [], [], []
    for block in table.blocks():
        rows += zip(*(column.to_pylist() for column in block.columns.values()), strict=True)
        lines += block.lines.tolist()
        bad += block.bad
    return rows, lines, bad


@pytest.fixture
def slowly(monkeypatch):
    """Returns a function that reads without pyarrow's parser."""

    def slow(raw, delimiter=","):
        with monkeypatch.context() as patch:
            patch.setattr(delimited, "_whole_lines", lambda *_: None)
            return read(raw, delimiter)

    return slow


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"a,b\n1,2\n3,4\n", [2, 3]),
        (b"a,b\r\n1,2\r\n3,4", [2, 3]),
        (b"a,b\r1,2\r3,4\r", [2, 3]),
        (b"\n\na,b\n1,2\n\n3,4\n", [4, 6]),
        (b'a,b\n"1\n\n",2\n3,4\n', [2, 5]),
        (b'"a\nx",b\n1,2\n3,4\n', [3, 4]),
        (b"\xef\xbb\xbfa,b\n1,2\n3,4\n", [2, 3]),
    ],
)
def test_each_record_has_the_line_it_begins_on(raw, lines, slowly):
    rows, found, bad = read(raw)
    assert (found, bad) == (lines, [])
    assert [tuple(value.strip() for value in row) for row in rows] == [("1", "2"), ("3", "4")]
    assert slowly(raw) == (rows, found, bad)


def test_records_that_cannot_be_used_are_left_out_with_the_reason():
    rows, lines, bad = read(b'a,b\n1\n2,3\n4,5,6\n"x"y,7\n\xff,8\n9,10\n')
    assert rows == [("2", "3"), ("9", "10")]
    assert lines == [3, 7]
    assert [line for line, _ in bad] == [2, 4, 5, 6]
    assert [why.split()[0] for _, why in bad] == ["has", "has", "cannot", "is"]


VALUES = st.text(st.sampled_from('ab1.,;"\n\r \té-'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t"),
       end=st.sampled_from(["\n", "\r\n"]))  # fmt: skip
def test_what_a_writer_wrote_is_read_back(rows, delimiter, end):
    held = io.StringIO(newline="")
    writer = csv.writer(held, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second"), *rows])
    found, lines, bad = read(held.getvalue().encode(), delimiter)
    assert bad == []
    assert found == [tuple(row) for row in rows]
    assert lines == sorted(lines)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from('ab,"\n '), max_size=40))
def test_both_ways_of_reading_agree(text):
    """Where pyarrow is trusted, reading record by record gives the same; it is stricter about quotes alone."""
    raw = f"a,b\n{text}\n".encode()
    held = content(raw)
    if (batches := delimited._whole_lines(held, ",", ["a", "b"], scan(held))) is None:
        return
    fast = [row for batch in batches() for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
    slow = list(delimited._by_record(held, ",", ["a", "b"], False))
    rows = [
        row for block in slow for row in zip(*(column.to_pylist() for column in block.columns.values()), strict=True)
    ]
    misquoted = [why for block in slow for _, why in block.bad]
    if misquoted:
        assert all("cannot be read as CSV" in why for why in misquoted)
        assert [row for row in fast if row in rows] == rows or len(rows) + len(misquoted) == len(fast)
    else:
        assert fast == rows
        assert [line for block in slow for line in block.lines.tolist()] == list(range(2, 2 + len(fast)))


@pytest.mark.parametrize(
    ("raw", "delimiter"),
    [
        (b"a,b,c\n1,2,3\n", ","),
        (b"a;b;c\n1,5;2,5;3\n", ";"),
        (b"a\tb\n1,2\t3\n4,5\t6\n", "\t"),
        (b"a|b\n1|2\n", "|"),
        (b"name;text\na;hello, you\nb;hi\n", ";"),
        (b'"a,x";b\n"1,2";3\n', ";"),
        (b"a\n1\n", ","),
        (b"", ","),
        (b"\xff\xfe,;", ","),
    ],
)
def test_the_delimiter_is_found(raw, delimiter):
    assert sniff(content(raw)) == delimiter


def test_a_delimiter_of_ones_own_may_be_among_those_tried():
    assert sniff(content(b"a:b\n1:2\n"), ":") == ":"
    assert sniff(content(b"a,b\n1,2\n"), ":") == ","


def test_the_scan_sees_what_lies_across_its_blocks(monkeypatch):
    monkeypatch.setattr(delimited, "_SCANNED", 3)
    assert scan(content("aé\nbé\n".encode()))[:2] == (2, True)
    assert scan(content(b"a\nb"))[:2] == (2, True)
    assert scan(content(b"ab\r\nb\r\n"))[:2] == (2, True)
    assert scan(content(b"ab\xc3"))[:2] == (1, False)
    assert scan(content(b"a\xc3\nb"))[:2] == (2, False)
    assert scan(content(b"ab\rb\n"))[:2] == (1, False)
    assert scan(content(b"ab\ncdefgh\r\n\n")).last == "cdefgh"


def test_many_records_come_in_blocks(monkeypatch, slowly):
    monkeypatch.setattr(delimited, "BLOCK_ROWS", 3)
    raw = "\n".join(["a,b", *(f"{i},x" for i in range(10))]).encode()
    rows, lines, _ = slowly(raw)
    assert [int(a) for a, _ in rows] == list(range(10))
    np.testing.assert_array_equal(lines, np.arange(2, 12))


def test_a_quote_that_is_never_closed_is_an_error_whatever_may_be_bad():
    for raw in (b'a,b\n1,2\n3,"4\n5,6\n', b'a,b\n1,2\n3,"4\n', b'a,b\n1,2\n3",",4', b'a,b\n1,2\n3,"'):
        with pytest.raises(DataError, match=r'^t.csv:3: a double quote is opened here .*""$'):
            read(raw)
