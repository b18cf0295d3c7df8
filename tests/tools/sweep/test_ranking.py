"""Ranks of settings, against scipy, and with runs that are lost."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxprop.errors import UsageError
from jaxprop.tools.sweep.ranking import Ended, rank, verdict

RNG = np.random.default_rng(0)
SAMPLES = {0.1: RNG.normal(0.80, 0.02, 5), 0.2: RNG.normal(0.85, 0.02, 5), 0.3: RNG.normal(0.84, 0.02, 5)}


def runs(samples):
    return [
        Ended({"lr": lr}, seed, f"{lr},{seed}", "completed", {"accuracy": float(value)}, "", 1.0)
        for lr, values in samples.items()
        for seed, value in enumerate(values)
    ]


def test_means_spreads_and_intervals_are_those_of_scipy():
    for one in rank(runs(SAMPLES), "accuracy", "max"):
        values = SAMPLES[one.setting["lr"]]
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        np.testing.assert_allclose((one.mean, one.spread), (np.mean(values), np.std(values, ddof=1)))
        np.testing.assert_allclose((one.mean - one.margin, one.mean + one.margin), (low, high))


def test_the_order_is_that_of_the_means():
    assert [one.setting["lr"] for one in rank(runs(SAMPLES), "accuracy", "max")] == [0.2, 0.3, 0.1]
    assert [one.setting["lr"] for one in rank(runs(SAMPLES), "accuracy", "min")] == [0.1, 0.3, 0.2]


def test_the_verdict_is_the_paired_t_test():
    best, following, *_ = rank(runs(SAMPLES), "accuracy", "max")
    found, wanted = verdict(best, following), stats.ttest_rel(best.values, following.values)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.pairs, found.difference) == (5, pytest.approx(best.mean - following.mean))


def test_seeds_that_one_of_them_lacks_are_no_pair():
    best, following, *_ = rank([one for one in runs(SAMPLES) if one.folder != "0.2,3"], "accuracy", "max")
    both = [seed for seed in best.seeds if seed in following.seeds]
    wanted = stats.ttest_rel(*(np.array(SAMPLES[one.setting["lr"]])[both] for one in (best, following)))
    assert (verdict(best, following).pairs, verdict(best, following).p) == (4, pytest.approx(wanted.pvalue))


def test_one_seed_has_no_interval_and_no_verdict():
    best, following = rank(runs({0.1: [0.5], 0.2: [0.6]}), "accuracy", "max")
    assert math.isnan(best.margin)
    assert math.isnan(verdict(best, following).p)


def test_equal_samples_differ_by_nothing():
    best, following = rank(runs({0.1: [0.5, 0.6], 0.2: [0.5, 0.6]}), "accuracy", "max")
    assert verdict(best, following).p == 1.0


def test_settings_that_lost_runs_come_last():
    gone = {"status": "diverged", "metrics": {}, "problem": "NaN"}
    lost = [one._replace(**gone) if one.folder == "0.2,0" else one for one in runs(SAMPLES)]
    found = rank(lost, "accuracy", "max")
    assert [(one.setting["lr"], one.lost, len(one.values)) for one in found] == [(0.3, 0, 5), (0.1, 0, 5), (0.2, 1, 4)]
    nothing = [one._replace(metrics={}) if one.setting["lr"] == 0.2 else one for one in runs(SAMPLES)]
    assert rank(nothing, "accuracy", "max")[-1].values == ()


def test_a_metric_that_is_not_measured_is_named_with_those_that_are():
    with pytest.raises(UsageError, match=r"acuracy.*accuracy"):
        rank(runs(SAMPLES), "acuracy", "max")
