"""Running scales and means, trends, and their way through JSON."""

import dataclasses
import json
import math
from collections import deque

import numpy as np
import pytest

from jaxprop.health.watch.history import LayerEma, LogEma, Means, Trend, decode, encode, median

SETTINGS = (0.98, 100, 0.02, 3.0)


def test_log_ema_finds_the_scale_of_log_normal_noise():
    history, rng = LogEma(), np.random.default_rng(0)
    for x in np.exp(1.5 + 0.4 * rng.standard_normal(2000)):
        history.feed(float(x), *SETTINGS)
    assert history.mean == pytest.approx(1.5, abs=0.15)
    assert math.sqrt(history.variance) == pytest.approx(0.4, rel=0.25)
    assert history.z(math.exp(1.5 + 5 * 0.4), 0.02) == pytest.approx(5, rel=0.4)


def test_log_ema_is_silent_until_armed_and_has_a_floor():
    history = LogEma()
    for _ in range(99):
        history.feed(1.0, *SETTINGS)
    assert history.z(1e9, 0.02) == 0
    history.feed(1.0, *SETTINGS)
    assert history.z(math.exp(0.1), 0.02) == pytest.approx(5)
    assert history.z(0.0, 0.02) == 0


def test_an_outlier_moves_log_ema_by_three_scales_at_most():
    history = LogEma()
    for i in range(100):
        history.feed(1.0 + 0.1 * (i % 3), *SETTINGS)
    mean, scale = history.mean, math.sqrt(history.variance)
    history.feed(1e30, *SETTINGS)
    assert history.mean - mean == pytest.approx(0.02 * 3 * scale)


def test_layer_ema_is_log_ema_for_every_layer():
    rng = np.random.default_rng(1)
    values = np.exp(rng.standard_normal((300, 3)))
    together, alone = LayerEma(), [LogEma() for _ in range(3)]
    for row in values:
        together.feed(np.log(row), *SETTINGS)
        for history, x in zip(alone, row, strict=True):
            history.feed(float(x), *SETTINGS)
    np.testing.assert_allclose(together.mean, [history.mean for history in alone], rtol=1e-12)
    np.testing.assert_allclose(together.variance, [history.variance for history in alone], rtol=1e-12)


def test_layer_ema_leaves_out_what_is_not_finite():
    history = LayerEma()
    for step in range(60):
        history.feed(np.array([0.0, -np.inf, 1.0 if step % 2 else np.nan]), 0.98, 50, 0.02, 3.0)
    assert history.mean[0] == 0
    assert np.isnan(history.mean[1])
    assert history.mean[2] == 1


def test_means_measure_noise_around_a_drift():
    means, rng = Means(), np.random.default_rng(2)
    for t in range(2000):
        means.feed(10 - 0.001 * t + 0.2 * rng.standard_normal(), 20, 400)
    assert means.noise == pytest.approx(0.2, rel=0.3)
    assert means.fast == pytest.approx(8.0, abs=0.15)
    assert means.slow == pytest.approx(8.4, abs=0.15)


def test_trend_is_not_moved_by_outliers():
    trend = Trend(deque(maxlen=60), deque(maxlen=60))
    for t in range(100):
        trend.feed(t, 0.5 * t + (1e6 if t % 9 == 0 else 0.0))
    slope, now, tau = trend.fit()
    assert slope == pytest.approx(0.5, rel=0.05)
    assert now == pytest.approx(49.5, rel=0.05)
    assert tau > 0.5
    assert trend.lowest == 40


def test_median_is_numpys():
    rng = np.random.default_rng(3)
    for n in (1, 2, 5, 8):
        values = rng.normal(size=n)
        assert median(values) == np.median(values)


def test_values_come_back_from_json_with_their_types_and_bits():
    rng = np.random.default_rng(4)
    value = {
        "floats": [0.1, -0.0, math.inf, -math.inf, 1e-320],
        "array": rng.normal(size=5),
        "counts": np.arange(3),
        "window": deque([1, 2], maxlen=7),
        "pair": (1, "a", None, True),
    }
    back = decode(None, json.loads(json.dumps(encode(value), allow_nan=False)))
    assert back["floats"] == value["floats"]
    assert math.copysign(1, back["floats"][1]) == -1
    assert back["array"].tobytes() == value["array"].tobytes()
    assert back["counts"].dtype == value["counts"].dtype
    assert back["window"] == value["window"]
    assert back["window"].maxlen == 7
    assert back["pair"] == value["pair"]
    assert math.isnan(decode(None, encode(math.nan)))


def test_dataclasses_are_filled_in_place():
    @dataclasses.dataclass
    class Holder:
        means: Means = dataclasses.field(default_factory=Means)
        array: np.ndarray | None = None

    old, new = Holder(Means(3, 0.1, 0.2, 0.3, 0.4), np.ones(2)), Holder()
    inner = new.means
    assert decode(new, json.loads(json.dumps(encode(old)))) is new
    assert new.means is inner
    assert new.means == old.means
    assert new.array.tolist() == [1, 1]
