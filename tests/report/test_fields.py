"""Values of files that may hold anything."""

import pytest

from jaxprop.report.fields import nested, number, numbers, printable, text, whole

ODD = [None, "1", [], {}, True, float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:8])
def test_what_is_no_number_is_none(value):
    assert number(value) is None


@pytest.mark.parametrize("value", [*ODD[:-1], -1, 1.0, 2**53], ids=lambda value: repr(value)[:8])
def test_what_is_no_step_is_none(value):
    assert whole(value) is None


def test_what_is_one():
    assert (number(2), number(-0.5), whole(0), whole(2**53 - 1)) == (2.0, -0.5, 0, 2**53 - 1)
    assert (text("a"), text(3, "b"), numbers([1, None, "x"]), numbers({"a": 1})) == ("a", "b", [1.0, None, None], [])
    assert nested({"a": {"b": 1}}, "a", "b") == 1
    assert nested({"a": [1]}, "a", "b") is None


def test_a_name_cannot_steer_the_terminal():
    assert printable("\x1b]0;title\x07\r\nname\u202e") == "?]0;title???name?"
    assert printable("x" * 300, 10) == "x" * 9 + "…"
