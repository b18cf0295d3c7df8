"""The permutation: complete, a function of its seeds alone, uniform, and pinned for ever."""

import numpy as np
import pytest

from jaxprop.data.order import permutation


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 1437, 65_536, 65_537])
def test_is_a_permutation(length):
    order = permutation(length, 3, 1)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(length))


def test_every_seed_gives_another_order_and_the_same_seeds_the_same():
    orders = {tuple(permutation(50, *seeds)) for seeds in [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0)]}
    assert len(orders) == 5
    assert np.array_equal(permutation(50, 2**40, 7), permutation(50, 2**40, 7))


def test_saved_runs_rely_on_these_very_numbers():
    assert permutation(8, 0, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert permutation(8, 0, 1).tolist() == [7, 4, 5, 1, 6, 2, 0, 3]


def test_every_index_is_equally_likely_everywhere():
    length, draws = 6, 3000
    counts = np.zeros((length, length))
    for seed in range(draws):
        counts[np.arange(length), permutation(length, seed)] += 1
    expected = draws / length
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 60  # 25 degrees of freedom: 60 is passed once in 10,000
