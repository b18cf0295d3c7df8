"""The paired bootstrap: against brute force, and how often its interval holds the truth."""

import itertools

import numpy as np
import pytest

from jaxprop.tools.retrain.bootstrap import FEWEST, Quotient, Weighted, gathered, paired_interval


def both(values):
    """The same figure as a quotient of sums and as rows that are gathered."""
    return Quotient(values, np.ones(len(values))), gathered(values, lambda rows: float(rows.mean()))


def test_quantiles_are_those_of_all_resamples():
    """Of four examples there are 4^4 resamples, whose quantiles can be counted."""
    first, second = np.array([0.0, 1.0, 4.0, 2.0]), np.array([1.0, 1.0, 9.0, 0.0])
    every = np.array([(second - first)[list(i)].mean() for i in itertools.product(range(4), repeat=4)])
    found = paired_interval(both(first)[0], both(second)[0], draws=200_000, level=0.8)
    assert found.difference == pytest.approx((second - first).mean())
    for bound, share in ((found.low, 0.1), (found.high, 0.9)):
        assert np.mean(every < bound - 1e-9) - 0.005 <= share <= np.mean(every <= bound + 1e-9) + 0.005


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quotients_weights_and_gathered_rows_agree(sign):
    """Every way of computing a mean draws the same number of each example, and so gives the same interval."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=50), rng.normal(size=50)
    bulk = paired_interval(both(first)[0], both(second)[0], sign=sign, draws=200)
    assert bulk.difference == pytest.approx(sign * (second.mean() - first.mean()))
    assert bulk.low < bulk.difference < bulk.high
    by_weights = [Weighted(50, lambda weights, x=x: float(weights @ x / weights.sum())) for x in (first, second)]
    for pair in (by_weights, (both(first)[1], both(second)[1])):
        found = paired_interval(*pair, sign=sign, draws=200)
        assert found.draws == bulk.draws == 200
        assert found.difference == pytest.approx(bulk.difference)
        assert abs(found.low - bulk.low) < 0.1
        assert abs(found.high - bulk.high) < 0.1


def test_rows_of_any_shape_are_repeated():
    """A row may be a tree of arrays, as boxes and scores are."""
    tree = {"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3)}
    seen = gathered(tree, lambda rows: float(rows["a"].sum() + 100 * rows["b"].sum()))
    assert seen.length == 3
    assert seen.of(np.array([0, 2, 1])) == 2 * (2 + 3) + 4 + 5 + 100 * 4


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    """Over 400 samples of 60 pairs, 95 % of the intervals hold the difference of the means, to within 3 points."""
    rng, held = np.random.default_rng(1), 0
    for seed in range(400):
        first = rng.normal(size=60)
        second = first + rng.normal(0.3, 0.5, size=60)
        found = paired_interval(both(first)[0], both(second)[0], draws=500, seed=seed)
        held += found.low <= 0.3 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_pairs_are_drawn_together():
    """A difference that is the same on each example has no spread, however much the examples differ."""
    first = np.random.default_rng(0).normal(0, 100, size=40)
    found = paired_interval(both(first)[0], both(first + 1)[0])
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)


def test_two_equal_models_differ_by_nothing():
    values = np.array([0.0, 1.0, 1.0])
    assert paired_interval(both(values)[1], both(values)[1], draws=50)[:3] == (0, 0, 0)


def test_slow_figures_are_resampled_less():
    values = np.arange(5.0)
    slow = gathered(values, np.mean)
    assert paired_interval(slow, slow).draws == FEWEST
    assert paired_interval(slow, slow, draws=20).draws == 20
    assert paired_interval(both(values)[0], slow).draws == FEWEST


def test_resamples_without_a_figure_are_left_out_and_one_of_the_whole_is_told():
    """Where one example alone has an object, some resamples have none; where none has, there is no interval."""
    counts = np.array([1.0, 0.0, 0.0])
    some = Quotient(counts, counts)
    found = paired_interval(some, some, draws=500)
    assert found[:3] == (0, 0, 0)
    assert 0 < found.draws < 500
    none = Quotient(0 * counts, 0 * counts)
    assert np.isnan(paired_interval(none, none).low)
