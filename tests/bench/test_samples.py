"""`bench/samples.py`: estimates from samples in rounds."""

import numpy as np
import pytest

from jaxprop.bench.samples import drift, estimate


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = estimate(rng.lognormal(0, 0.1, (5, 30)).tolist())
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 400 <= 1.0


def test_rounds_that_lie_apart_widen_the_interval():
    steady = estimate([[1.0, 1.01, 0.99]] * 4)
    moved = estimate([[1.0, 1.01, 0.99], [1.2, 1.21, 1.19]] * 2)
    assert moved.noise > 4 * steady.noise


def test_no_sample_is_left_out():
    assert estimate([[1.0, 1.0], [100.0, 100.0, 100.0]]).middle == 100.0


def test_a_single_sample_has_no_interval():
    assert estimate([[2.0]]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [([[1.0], [1.1]], 0.1), ([[1.0], [1.1], [1.0], [1.1]], 0.1), ([[1.0, 1.2, 1.0, 1.2]], 0.2), ([[3.0]], 0.0)],
)
def test_drift_compares_even_and_odd_rounds(rounds, expected):
    assert drift(rounds) == pytest.approx(expected)
