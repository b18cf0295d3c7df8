"""The decision: every place of both intervals, and the default tolerance."""

import pytest

from jaxprop.tools.retrain.bootstrap import Interval
from jaxprop.tools.retrain.decide import Compared, decide, usual_tolerance


def seen(low, high, difference=None):
    middle = (low + high) / 2 if difference is None else difference
    return Compared(0.5, 0.5 + middle, Interval(middle, low, high, 2000), 100)


NAN = float("nan")
CASES = [
    ((0.1, 0.2), (0.0, 0.0), True, "better on the new data"),
    ((0.1, 0.2), (-0.009, 0.01), True, "and no worse on the old"),
    ((0.1, 0.2), (-0.009, 0.0), True, "and worse on the old by less than the 0.01 tolerated"),
    ((0.1, 0.2), (-0.009, -0.001), True, "and worse on the old by less than the 0.01 tolerated"),
    ((0.1, 0.2), (-0.02, 0.0), False, "but not shown to be within the tolerance on the old"),
    ((0.1, 0.2), (-0.5, -0.4), False, "but worse on the old"),
    ((0.0, 0.2), (0.1, 0.2), False, "not shown to be better on the new data"),
    ((-0.2, -0.1), (0.1, 0.2), False, "worse on the new data"),
    ((0.0, 0.0), (0.0, 0.0), False, "not shown to be better"),
    ((NAN, NAN), (0.0, 0.0), False, "not shown to be better"),
    ((0.1, 0.2), (NAN, NAN), False, "not shown to be within the tolerance"),
]


@pytest.mark.parametrize(("new", "old", "promote", "reason"), CASES)
def test_both_bounds_decide(new, old, promote, reason):
    found = decide("accuracy", seen(*new), seen(*old), 0.01)
    assert found.promote is promote
    assert reason in found.reason


def test_a_few_new_examples_promote_nothing():
    """Fault: the interval of one example has no width, so that a single one decided."""
    better = seen(1.0, 1.0)
    assert decide("accuracy", better._replace(examples=10), seen(0.0, 0.0), 0.9).promote
    found = decide("accuracy", better._replace(examples=9), seen(0.0, 0.0), 0.9)
    assert not found.promote
    assert found.reason.startswith("9 new test examples are too few to tell which is better")
    assert found.reason.endswith("give 10 or more")


def test_a_loss_has_a_tolerance_in_its_own_unit():
    assert usual_tolerance("mean_absolute_error", "min", 40.0) == pytest.approx(0.4)
    assert usual_tolerance("wer", "min", 0.5) == usual_tolerance("map", "max", 0.5) == 0.01
    assert usual_tolerance("chrf", "max", 99.0) == 1.0
