"""Places on axes and levels of colours."""

import itertools
import math

import pytest

from jaxprop.report.sweeps.scales import APART, Absent, axis, distinct, level


@pytest.mark.parametrize(
    ("values", "kind", "at", "ticks"),
    [
        ([1e-4, 1e-2, 1e-3], "log", [0, 1, 0.5], ["0.0001", "0.001", "0.01"]),
        ([0.0, 0.5, 0.25], "linear", [0, 1, 0.5], ["0.0", "0.25", "0.5"]),
        ([1000, 0, 10], "ordered", [1, 0, 0.5], ["0", "10", "1000"]),
        ([3, 3], "linear", [0.5, 0.5], ["3"]),
        ([-1, 1, 100], "ordered", [0, 0.5, 1], ["-1", "1", "100"]),
        ([None, 0.9], "category", [0, 1], ["null", "0.9"]),
        ([True, False], "category", [0, 1], ["true", "false"]),
        ([[64], [128, 64]], "category", [0, 1], ["[64]", "[128, 64]"]),
        (["adam"], "category", [0.5], ["adam"]),
        ([0.1, Absent(), 0.2], "linear", [0, None, 1], ["0.1", "0.2"]),
        ([Absent()], "category", [None], []),
    ],
)
def test_an_axis(values, kind, at, ticks):
    found = axis(values)
    assert (found.kind, found.at, [text for _, text in found.ticks]) == (kind, at, ticks)


def test_categories_stand_as_the_sweep_has_them():
    assert axis(["c", "a"], ["a", "b", "c"]).at == [1, 0]


def test_labels_of_many_values_do_not_overlap():
    for values in ([f"value {i}" for i in range(60)], [0.001 * 1.1**i for i in range(60)], list(range(60))):
        ticks = axis(values).ticks
        assert 4 < len(ticks) <= 1 + 1 / APART
        assert min(b[0] - a[0] for a, b in itertools.pairwise(ticks)) >= APART
        assert ticks[-1][0] == 1


def test_values_as_words():
    assert distinct([0.5, 1, 0.25]) == ["0.25", "0.5", "1"]
    assert distinct([None, 2, None]) == ["null", "2"]


def test_levels_of_the_metric():
    found = level([0.9, 0.8, math.nan], "max")
    assert (found.at(0.9), found.at(0.8), found.at(math.nan)) == (1, 0, None)
    lower = level([1e-3, 1.0, 0.1], "min")
    assert (lower.log, lower.clipped, lower.worst) == (True, True, pytest.approx(0.397))
    assert lower.at(1.0) == 0
    assert level([0.5, 0.5], "max").at(0.5) == 1
    assert level([math.nan], "max") is None
