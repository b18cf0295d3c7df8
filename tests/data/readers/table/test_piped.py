"""Rows of standard input are answered as they come, with their lines, whatever stands in those around them."""

import json

import numpy as np
import pytest

from jaxprop.config.schema.data import Table
from jaxprop.data import standard_input
from jaxprop.data.readers.table import open_splits, rows_to_predict
from jaxprop.errors import DataError

NAMES = ["size", "color", "kind"]
ROWS = [[1.0, "red", "apple"], [2.0, "green", "pear"], [3.0, "red", "apple"], [4.5, "blue", "plum"]]


@pytest.fixture
def sources(write):
    """What is made of standard input."""
    section = Table(name="table", train=write("fruit", "csv", NAMES, ROWS), target="kind")
    train = open_splits(section, "classify")["train"]
    return lambda *paths: rows_to_predict(section, "classify", train.prepared, [*paths, "-"])


def told(source):
    return source.info["names"], [tuple(one) for one in source.info["bad"]]


def inputs(source):
    return source.take(np.arange(source.length))["inputs"]


def test_rows_of_csv_while_it_is_open(pipe, sources):
    found = sources()
    pipe.write(b"color,size\n")
    pipe.write(b"red,1\ngreen,2\n")
    first = next(found)
    assert told(first) == (["stdin:2", "stdin:3"], [])
    pipe.write(b"blue\nred,much\n\nred,1\n")
    second = next(found)
    assert told(second)[0] == ["stdin:7"]
    assert [(before, name) for before, name, _ in told(second)[1]] == [(0, "stdin:4"), (0, "stdin:5")]
    np.testing.assert_array_equal(inputs(second)[0], inputs(first)[0])
    pipe.write(b"  \n")
    pipe.close()
    assert list(found) == []


def test_a_value_of_several_lines_waits_for_its_end(pipe, sources):
    found = sources()
    pipe.write(b'color,size\nred,1\n"re')
    assert told(next(found)) == (["stdin:2"], [])
    pipe.write(b'd\nor so",2\ngreen,1\n"blue\n')
    assert told(next(found)) == (["stdin:3", "stdin:5"], [])
    pipe.close()
    (last,) = found
    assert last.length == 0
    assert told(last)[1][0][1] == "stdin:6"
    assert "never closed" in told(last)[1][0][2]


def test_a_quote_that_is_not_closed_does_not_keep_the_rest_waiting(pipe, sources, monkeypatch):
    monkeypatch.setattr(standard_input, "LONGEST", 20)
    found = sources()
    pipe.write(b'color;size\nred;1\n"green;2\n')
    assert told(next(found)) == (["stdin:2"], [])
    pipe.write(b"green;3\ngreen;3\ngreen;3\n")
    assert [name for _, name, _ in told(next(found))[1]] == ["stdin:3"]
    pipe.write(b"green;4\n")
    assert told(next(found)) == (["stdin:7"], [])


def test_rows_of_json_lines_while_they_come(pipe, sources):
    found = sources()
    pipe.write(b'{"size": 1}\nno\n')
    first = next(found)
    assert first.length == 0
    assert told(first)[1] == [
        (0, "stdin:1", "has no column 'color' (it has: size)"),
        (0, "stdin:2", "is not JSON (Expecting value at character 1)"),
    ]
    pipe.write(b'{"size": 2, "color": "red"}\n{"size": [1], "color": "red"}\n{"size": 3}\n')
    second = next(found)
    assert told(second) == (
        ["stdin:3", "stdin:5"],
        [(1, "stdin:4", "'size' holds a list; expected numbers and texts")],
    )
    pipe.write(json.dumps({"size": 2}).encode())
    pipe.close()
    (last,) = found
    np.testing.assert_array_equal(inputs(last)[0, 1:], inputs(second)[1, 1:])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "stdin: the file is empty"),
        (b"color,size\n", "stdin: has a header and no row below it"),
        (b"colour,size\nred,1\n", "stdin: has no column 'color'; did you mean 'colour'"),
        (b"red,1\nred,1\n", "stdin: has no column"),
        (b'{\n"a": 1}\n', "stdin: is one JSON value"),
        (b'color,"size\nred,1\n', "stdin:1: a double quote is opened here and never closed"),
        (b"\x89PNG\r\n", "stdin: is a single image"),
    ],
)
def test_what_is_no_table_is_refused(pipe, sources, content, why):
    pipe.write(content)
    pipe.close()
    with pytest.raises(DataError, match=why):
        list(sources())


@pytest.mark.parametrize("content", [b"color,size\rred,1\rgreen,2\r", b"color,size\r\nred,1\r\ngreen,2"])
def test_line_ends_of_other_systems(pipe, sources, content):
    pipe.write(content)
    pipe.close()
    assert [name for source in sources() for name in source.info["names"]] == ["stdin:2", "stdin:3"]


def test_parquet_is_read_whole(pipe, sources, write):
    with open(write("new", "parquet", NAMES, ROWS), "rb") as file:
        pipe.write(file.read())
    pipe.close()
    assert [source.length for source in sources()] == [4]


def test_files_stand_before_it(pipe, sources, write):
    path = write("new", "csv", NAMES[:2], [row[:2] for row in ROWS])
    pipe.write(b"color,size\nred,1\n")
    pipe.close()
    assert [source.info["names"][0] for source in sources(path)] == [f"{path}:2", "stdin:2"]
