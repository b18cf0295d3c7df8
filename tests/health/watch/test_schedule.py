"""The learning rate's story: warmup ends, restarts, and rises above all that was stable."""

import numpy as np
import pytest

from jaxprop.health.watch.reading import Trail, depth_order, read
from jaxprop.health.watch.schedule import FEWEST_PACES, GROWN, Pace, follow, rate_rise
from tests.health.records import FULL, LAYERS, ROWS, record


def tell(rates, weights=None):
    """Steps that re-arm, the trail, and the largest rise above what was stable."""
    trail, rearmed, rise = Trail(start=1), [], 1.0
    for step, rate in enumerate(rates, 1):
        weight = 64.0 if weights is None else weights[step - 1]
        if follow(read(step, record(loss=1.0, grad_norm=1.0, learning_rate=rate, weight=weight), ()), trail):
            rearmed.append(step)
        rise = max(rise, rate_rise(trail, step))
    return rearmed, trail, rise


def cosine(steps, peak=1e-3):
    return peak * (0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(steps) / steps)))


WARMUP = 1e-3 * np.arange(1, 101) / 100


@pytest.mark.parametrize(
    ("rates", "rearmed"),
    [
        (np.full(100, 1e-3), []),
        (cosine(300), []),
        (np.concatenate([WARMUP, cosine(200)]), [102]),
        (np.concatenate([WARMUP, np.full(100, 1e-3)]), [102]),
        (np.concatenate([cosine(200), cosine(200)]), [201]),
        (np.full(50, np.nan), []),
    ],
)
def test_schedules_re_arm_and_are_no_rise(rates, rearmed):
    steps, _, rise = tell(rates)
    assert steps == rearmed
    assert rise == pytest.approx(1.0, abs=0.01)


def test_a_jump_above_what_was_stable_is_a_rise_and_no_restart():
    steps, _, rise = tell(np.concatenate([np.full(100, 1e-3), np.full(5, 4e-2)]))
    assert steps == []
    assert rise == pytest.approx(40, rel=1e-3)


def test_a_rate_that_has_stayed_is_the_new_level():
    _, trail, _ = tell(np.concatenate([np.full(100, 1e-3), np.full(30, 4e-2)]))
    assert rate_rise(trail, 130) == 1


def test_a_larger_batch_may_have_a_larger_rate():
    rates = np.concatenate([np.full(110, 1e-3), np.full(20, 4e-3)])
    weights = np.concatenate([np.full(100, 64.0), np.full(30, 256.0)])
    steps, _, rise = tell(rates, weights)
    assert steps[0] == 105
    assert rise == pytest.approx(1.0, abs=0.01)


def test_depth_is_the_order_of_numbers_not_of_names():
    names = ["head", *(f"blocks/{i}/mlp" for i in (0, 1, 10, 2)), "blocks/0/norm"]
    assert depth_order(names) == [1, 2, 4, 3]
    assert depth_order(["a", "b"]) == []


def test_a_tap_is_found_its_layer():
    reading = read(10, record(FULL, loss=1.0, grad_norm=1.0), LAYERS)
    assert [reading.layer_of_tap(i) for i in range(6)] == list(LAYERS)
    other = read(10, record(FULL._replace(taps=(("elsewhere", ""),)), loss=1.0, grad_norm=1.0), LAYERS)
    assert other.layer_of_tap(0) == "elsewhere"


# -- the stand-in for a rate that is not known --------------------------------------------------


def pace_of(last_update, last_gradient, before=12, spike=(), layers=None):
    """The trail after full records each 10th step, in the last of which updates and gradients are so many times larger.

    Args:
      spike: steps before the last one at which the gradient alone is 100 times as large.
      layers: factors of each layer's update in the last record, instead of `last_update`.
    """
    pace, trail, end = Pace(), Trail(start=1), 10 * before + 10
    noise = np.random.default_rng(0)
    for step in range(1, end + 1):
        last = step == end
        gradient = (last_gradient if last else 100.0 if end - step in spike else 1.0) * np.exp(0.1 * noise.normal())
        update = (np.asarray(layers) if layers is not None else last_update) if last else 1.0
        full = {"rows_update_norm": 0.01 * update * np.ones(len(LAYERS))} if step % 10 == 0 else {}
        layout = FULL if step % 10 == 0 else ROWS
        values = {"loss": 1.0, "grad_norm": gradient, "rows_grad_norm": gradient, "learning_rate": np.nan}
        pace.follow(read(step, record(layout, **values, **full), ()), trail)
    return trail


@pytest.mark.parametrize(
    ("update", "gradient", "least", "most"),
    [
        (1.0, 1.0, 0.7, 1.4),  # nothing changes
        (20.0, 1.0, 14.0, 21.0),  # a higher rate
        (60.0, 5.0, 8.0, 15.0),  # a higher rate, and gradients that have grown because of it
        (10.0, 10.0, 0.7, 1.4),  # other data, SGD
        (3.0, 10.0, 0.2, 0.5),  # other data, Adam
        (1.0, 0.1, 0.7, 1.1),  # a gradient that vanishes
    ],
)
def test_updates_that_outgrow_gradients_are_a_higher_rate(update, gradient, least, most):
    trail = pace_of(update, gradient)
    assert least < trail.get("pace") < most
    assert ("rate_grown" in trail.seen) == (trail.get("pace") > GROWN)


def test_one_layer_and_an_earlier_spike_of_the_gradient_are_no_higher_rate():
    assert pace_of(1.0, 1.0, layers=[50.0, 1, 1, 1, 1, 1]).get("pace") < 1.4
    assert pace_of(10.0, 1.0, spike=(3,)).get("pace") < 1.0  # what momentum still holds of the spike


def test_a_pace_needs_a_history():
    assert "pace" not in pace_of(20.0, 1.0, before=FEWEST_PACES - 1).seen
    assert "pace" in pace_of(20.0, 1.0, before=FEWEST_PACES).seen
