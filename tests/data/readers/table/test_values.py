"""Values of columns: numbers, texts and missing ones, from text and from typed columns."""

import decimal

import numpy as np
import pyarrow as pa
import pytest

from jaxprop.data.readers.table.files import Block, Table
from jaxprop.data.readers.table.values import MISSING, look, numbers, texts

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", " 2.5 ", "-3e2", ".5", "7."], [1, 2.5, -300, 0.5, 7]),
        (["+1", "1"], [1, 1]),
        (list(MISSING), [NAN] * len(MISSING)),
        ([1, None, 3], [1, NAN, 3]),
        ([1.5, NAN, None], [1.5, NAN, NAN]),
        ([True, False, None], [1, 0, NAN]),
        ([decimal.Decimal("1.5")], [1.5]),
    ],
)
def test_numbers_are_read_and_missing_values_are_nan(values, expected):
    array = pa.array(values)
    found, wrong = numbers(array)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64
    assert not wrong.any()


@pytest.mark.parametrize(
    "value", ["x", "1_000", "0x1F", "1 2", "٣", "1,5", "inf", "-Infinity", "1e39", "1e999", "true"]
)
def test_what_is_no_finite_number_is_wrong(value):
    found, wrong = numbers(pa.array(["1", value, ""]))
    np.testing.assert_array_equal(found, [1, NAN, NAN])
    assert wrong.tolist() == [False, True, False]


def test_commas_are_decimal_where_they_may_be():
    found, wrong = numbers(pa.array(["1,5", "2.5", "3"]), comma=True)
    assert (found.tolist(), wrong.any()) == ([1.5, 2.5, 3.0], False)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([" red", "red ", "NA", None]), ["red", "red", None, None]),
        (pa.array([1, 2, 1]), ["1", "2", "1"]),
        (pa.array([1.0, 2.5, None, NAN]), ["1", "2.5", None, None]),
        (pa.array(["1.0", "1.", "1", "01"]), ["1", "1", "1", "01"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["True", "FALSE"]), ["true", "false"]),
        (pa.array([], pa.string()), []),
    ],
)
def test_the_same_value_is_the_same_text_whatever_its_type(array, expected):
    codes, names = texts(array)
    assert [None if code < 0 else names[code] for code in codes] == expected


def test_a_look_counts_each_sort_of_value():
    held = ["1", "2.5", "1,5", "1,500", "2024-01-02", "3.4.2024", "red", "", "NA"]
    columns = {
        "mixed": pa.array(held),
        "typed": pa.array([1.5, None, NAN] * 3),
        "truth": pa.array([True, None, False] * 3),
    }
    table = Table("t", tuple(columns), lambda: iter([Block(columns, np.arange(9))]))
    found = look(table, list(columns))
    assert found["mixed"].counts == {"number": 2, "comma": 1, "thousand": 1, "date": 2, "text": 1, "missing": 2}
    assert found["mixed"].examples["date"] == "2024-01-02"
    assert found["mixed"].present == 7
    assert found["typed"].counts == {"number": 3, "missing": 6}
    assert found["truth"].counts == {"text": 6, "missing": 3}
