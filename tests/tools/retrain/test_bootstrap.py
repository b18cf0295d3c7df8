"""The paired bootstrap: against brute force, and how often its interval holds the truth."""

import itertools

import numpy as np
import pytest

from jaxprop.tools.retrain.bootstrap import FEWEST, Gathered, Sums, paired_interval


def quotient(total):
    return float(total[0] / total[1]) if total[1] else float("nan")


def mean_of_rows(rows):
    return float(rows.mean())


def both(values):
    """The same figure as sums and as rows that are gathered."""
    ones = np.ones(len(values))
    return Sums((values, ones), quotient, quotient=True), Gathered(values, mean_of_rows)


def test_quantiles_are_those_of_all_resamples():
    """Of four examples there are 4^4 resamples, whose quantiles can be counted."""
    first, second = np.array([0.0, 1.0, 4.0, 2.0]), np.array([1.0, 1.0, 9.0, 0.0])
    every = np.array([(second - first)[list(i)].mean() for i in itertools.product(range(4), repeat=4)])
    found = paired_interval(both(first)[0], both(second)[0], draws=200_000, level=0.8)
    assert found.difference == pytest.approx((second - first).mean())
    for bound, share in ((found.low, 0.1), (found.high, 0.9)):
        assert np.mean(every < bound - 1e-9) - 0.005 <= share <= np.mean(every <= bound + 1e-9) + 0.005


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_in_bulk_one_total_at_a_time_and_gathered_rows_agree(sign):
    """Every way of computing a mean draws the same resamples, and so gives the same interval."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=50), rng.normal(size=50)
    (sums, rows), (other_sums, other_rows) = both(first), both(second)
    slow, other_slow = (one._replace(quotient=False) for one in (sums, other_sums))
    bulk = paired_interval(sums, other_sums, sign=sign, draws=400)
    assert bulk.difference == pytest.approx(sign * (second.mean() - first.mean()))
    assert bulk.low < bulk.difference < bulk.high
    for found in (
        paired_interval(slow, other_slow, sign=sign, draws=400),
        paired_interval(rows, other_rows, sign=sign, draws=400),
    ):
        assert np.allclose(found[:3], bulk[:3])
        assert found.draws == bulk.draws == 400


def test_totals_of_any_shape_are_finished_as_they_are():
    """A total may be a tree of arrays, as the counts of n-grams are."""
    rng = np.random.default_rng(0)
    trees = [{"a": rng.normal(size=(30, 2)), "b": rng.normal(size=30)} for _ in range(2)]

    def finish(total):
        assert total["a"].shape == (2,)
        return float(total["a"][1] + 2 * total["b"])

    first, second = (Sums(tree, finish) for tree in trees)
    weights = [tree["a"][:, 1] + 2 * tree["b"] for tree in trees]
    expected = paired_interval(*(Gathered(w, lambda x: float(x.sum())) for w in weights), draws=300)
    assert np.allclose(paired_interval(first, second, draws=300)[:3], expected[:3])


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


def test_slow_figures_are_resampled_for_some_seconds():
    """No resample follows once the time is over, but there are always enough."""
    values = np.arange(5.0)
    found = paired_interval(both(values)[1], both(values + 1)[1], draws=10_000, seconds=0)
    assert found.draws == FEWEST


def test_resamples_without_a_figure_are_left_out_and_one_of_the_whole_is_told():
    """Where one example alone has an object, some resamples have none; where none has, there is no interval."""
    counts = np.array([1.0, 0.0, 0.0])
    some = Sums((counts, counts), quotient, quotient=True)
    found = paired_interval(some, some, draws=500)
    assert found[:3] == (0, 0, 0)
    assert 0 < found.draws < 500
    none = Sums((0 * counts, 0 * counts), quotient, quotient=True)
    assert np.isnan(paired_interval(none, none).low)
