"""The ratio of two times: right on what is drawn from known distributions, whatever else disturbs them."""

import numpy as np
import pytest

from jaxprop.bench.ratio import HOST, OTHER, Side, holm, ratio, side, side_of_processes, undisturbed


def drawn(rng, rounds, count, between, within, scale=1.0):
    """Samples to which interference only adds, as a round as a whole and as each sample."""
    return [
        (scale * np.exp(abs(rng.normal(0, between)) + abs(rng.normal(0, within, count)))).tolist()
        for _ in range(rounds)
    ]


@pytest.mark.parametrize(("rounds", "noise"), [(3, 0.01), (5, 0.05), (10, 0.2), (20, 0.05)])
def test_equal_programs_are_hardly_ever_different(rounds, noise):
    rng = np.random.default_rng(rounds)
    found = [ratio(*(side(drawn(rng, rounds, 20, noise, noise)) for _ in range(2))) for _ in range(60)]
    assert sum(one.p < 0.05 for one in found) <= 1
    # 95 % of the intervals hold the true ratio; of 60, at least 54 do with a probability of 98 %.
    assert sum(one.low <= 1 <= one.high for one in found) >= 54


@pytest.mark.parametrize("rounds", [3, 5, 20])
def test_a_slowdown_of_8_percent_is_found_where_the_noise_is_small(rounds):
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = ratio(side(drawn(rng, rounds, 20, 0.01, 0.02)), side(drawn(rng, rounds, 20, 0.01, 0.02, scale=1.08)))
        assert found.p < 0.05
        assert found.ratio == pytest.approx(1.08, rel=0.03)
        assert found.low < found.ratio < found.high


def test_stretches_of_interference_do_not_move_the_undisturbed_time():
    rng = np.random.default_rng(0)
    quiet = drawn(rng, 20, 20, 0.0, 0.01)
    busy = [[2 * one for one in samples] if i % 2 else samples for i, samples in enumerate(quiet)]
    assert undisturbed(busy) == pytest.approx(undisturbed(quiet), rel=0.01)
    assert side(busy).median > 1.3 * side(quiet).median


def test_a_machine_that_changed_in_the_middle_gives_no_verdict():
    rng = np.random.default_rng(0)
    changed = drawn(rng, 5, 20, 0.0, 0.01) + drawn(rng, 5, 20, 0.0, 0.01, scale=1.3)
    slower = drawn(rng, 10, 20, 0.0, 0.01, scale=1.2)
    found = ratio(side(changed), side(slower))
    assert found.floor == pytest.approx(0.3, abs=0.02)
    assert found.p > 0.9


def test_rounds_that_alternate_are_an_a_a_pair_of_different_programs():
    assert side([[1.0, 1.0], [1.2, 1.2]] * 4).again == pytest.approx(0.2)


def test_what_other_processes_can_have_added_is_no_difference():
    quick, slow = [[1.0, 1.01]] * 6, [[1.2, 1.21]] * 6
    assert ratio(side(quick, waited=0.01), side(slow, waited=0.01)).p < 0.01
    for waits in ((0.0, 0.4), (0.4, 0.0), (0.4, 0.4), (1.7, 0.0)):
        found = ratio(side(quick, waited=waits[0]), side(slow, waited=waits[1]))
        assert found.p > 0.9
        assert found.floor >= 1 / (1 - 0.4) - 1
    # Beside as busy a neighbour both are slowed down alike; beside an idle one only one of them is.
    assert ratio(side(quick, others=1.0), side(slow, others=1.0)).p < 0.01
    assert ratio(side(quick, others=0.0), side(slow, others=1.0)).p > 0.9
    assert ratio(side(quick, others=0.0), side(slow, others=9.0)).floor == 0.3


def test_samples_without_any_scatter():
    found = ratio(side([[1.0, 1.0]] * 3), side([[1.0, 1.0]] * 3))
    assert (found.ratio, found.floor, found.p) == (1.0, OTHER.floor, 1.0)
    assert found.low == pytest.approx(1.0, abs=1e-5)
    assert ratio(side([[1.0, 1.0]] * 3), side([[1.1, 1.1]] * 3)).p < 0.01


def test_the_noisy_side_counts_whichever_it_is():
    rng = np.random.default_rng(0)
    quiet, noisy = side(drawn(rng, 10, 20, 0.0, 0.01)), side(drawn(rng, 10, 20, 0.2, 0.2))
    there, back = ratio(quiet, noisy), ratio(noisy, quiet)
    assert there.low == pytest.approx(1 / back.high)
    assert there.p == pytest.approx(back.p)
    assert there.high / there.low > 1.1


def test_one_row_counts_as_it_is_and_many_share_the_risk():
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    adjusted = holm([0.001] + [0.5] * 39)
    assert adjusted[0] == pytest.approx(0.04)
    assert adjusted[1:] == [1.0] * 39


def test_the_result_is_the_same_each_time():
    rounds = drawn(np.random.default_rng(0), 5, 20, 0.05, 0.05)
    assert side(rounds) == side(rounds)
    assert isinstance(side(rounds), Side)


# -- several processes ----------------------------------------------------------------------------


def processes(rng, count, scale=1.0, scatter=HOST.scatter):
    """Rounds of processes that differ by a scatter of their own, which no round of one of them shows."""
    found = []
    for _ in range(count):
        own = scale * np.exp(rng.normal(0, scatter))
        found.append((own * (1 + np.abs(rng.normal(0, 0.01, (8, 20))))).tolist())
    return found


def judged(rng, count, scale):
    sides = [side_of_processes(processes(rng, count, factor), HOST.scatter) for factor in (1.0, scale)]
    return ratio(*sides, HOST.floor)


@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 0.0, 0.02), (1.09, 0.98, 1.0)])
def test_five_processes_tell_a_slowdown_from_their_scatter(scale, least, most):
    rng = np.random.default_rng(0)
    found = [judged(rng, 5, scale) for _ in range(200)]
    called = np.mean([one.p < 0.05 and one.ratio > 1 for one in found])
    assert least <= called <= most


def test_their_interval_holds_the_true_ratio():
    rng = np.random.default_rng(1)
    found = [judged(rng, 5, 1.09) for _ in range(200)]
    assert 0.93 <= np.mean([one.low <= 1.09 <= one.high for one in found]) <= 1.0


def test_processes_that_scatter_more_than_is_known_have_no_verdict():
    rng = np.random.default_rng(2)
    sides = [side_of_processes(processes(rng, 3, factor, scatter=0.2), HOST.scatter) for factor in (1.0, 1.09)]
    assert ratio(*sides, HOST.floor).p > 0.05


def test_processes_of_a_single_round_each():
    one = side_of_processes([[[1.0, 1.1]], [[1.02, 1.1]], [[0.99, 1.2]]], HOST.scatter)
    found = ratio(one, one, HOST.floor)
    assert found.ratio == 1.0
    assert found.low < 1.0 < found.high
    assert found.p == 1.0
