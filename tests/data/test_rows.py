"""Rows of CSV and JSONL, whatever ends their lines: each with its line, and with what is wrong with a bad one."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprop.data import rows
from jaxprop.errors import DataError


def of_csv(content, delimiter=",", **how):
    return list(rows.csv_rows(io.BytesIO(content), "x.csv", delimiter, **how))


def of_json(content):
    return list(rows.json_rows(io.BytesIO(content), "x.jsonl"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_as_on_any_system(end):
    found = of_csv(end.join([b"\xef\xbb\xbfa,b", b'"1', b'2",3', b"", b"4,5", b""]))
    assert [(line, why) for line, _, why in found] == [(1, None), (2, None), (5, None)]
    assert found[1][1] == [f"1{end.decode()}2", "3"]


def test_without_quotes_a_quote_is_a_character():
    assert of_csv(b'a\tb\n"x\t5"\n', "\t", quoted=False)[1] == (2, ['"x', '5"'], None)


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"a,b\ncaf\xe9,1\n", 2, "is not UTF-8 text (byte 0xe9); save the file as UTF-8"),
        (b'a,b\n"a"b,1\nx,y\n', 2, "cannot be read as CSV"),
    ],
)
def test_a_bad_row_of_csv_is_told_and_the_next_one_is_read(content, line, why):
    assert of_csv(content)[1][0] == line
    assert of_csv(content)[1][2].startswith(why)


def test_a_quote_that_is_never_closed_has_its_line():
    with pytest.raises(DataError, match=r"x\.csv:3: a double quote is opened here and never closed; close it"):
        of_csv(b'a,b\n1,2\n"3,4\n5,6\n')


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"a": 1', "is not JSON (Expecting ',' delimiter at character 9)"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b"[" * 100_000, "is not JSON that can be read (RecursionError)"),
        (b'{"a": "\xe9"}', "is not UTF-8 text (byte 0xe9); save the file as UTF-8"),
        (b"7", "holds a int, not an object"),
    ],
)
def test_a_bad_line_of_json_is_told_and_the_next_one_is_read(content, why):
    assert of_json(b"\xef\xbb\xbf" + content + b'\n\n{"b": 2}') == [(1, {}, why), (3, {"b": 2}, None)]


def test_rows_to_predict_stand_before_a_quote_that_is_never_closed():
    found = of_csv(b'a,b\n1,2\n"3,4\n5,6\n', to_predict=True)
    assert [line for line, _, _ in found] == [1, 2, 3]
    assert found[-1][2].startswith("a double quote is opened here and never closed")


def test_lines_of_json_may_begin_anywhere():
    found = list(rows.json_rows(io.BytesIO(b'{"a": 1}\nno\n'), "stdin", first=7))
    assert [(line, record) for line, record, _ in found] == [(7, {"a": 1}), (8, {})]


def test_a_row_with_too_many_values_says_what_to_quote():
    assert rows.ragged(["1", "2", "3"], ["a", "b"], ",").endswith("contains ',' has to stand in double quotes")
    assert rows.ragged(["1", "2", "3"], ["a", "b"], "\t").endswith("replace tabs within a value by spaces")  # no quotes
    assert rows.ragged(["1", "2"], ["a", "b"], ",") is None


TEXTS = st.lists(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4), max_size=5
)


@given(TEXTS)
def test_what_python_writes_is_read_as_it_was(values):
    held = io.StringIO(newline="")
    csv.writer(held, quoting=csv.QUOTE_ALL).writerows(values)
    assert [row for _, row, _ in of_csv(held.getvalue().encode())] == values
    lines = "".join(json.dumps({"x": row}) + "\n" for row in values)
    assert [record["x"] for _, record, _ in of_json(lines.encode())] == values
