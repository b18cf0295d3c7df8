"""The alert on a loss scale that does not settle: planted faults, and healthy runs in float16 that give none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.measurements import SCALARS, Layout, Measurements
from jaxprop.core.precision import Scaling
from jaxprop.health.watch.watch import Watch
from tests.steps import make_batch, make_params, mean_loss


def record(scale, overflow=False, loss=1.0):
    norm = np.inf if overflow else 1.0
    values = dict.fromkeys(SCALARS, np.nan) | {
        "loss": loss,
        "grad_norm": norm,
        "skipped": float(overflow),
        "guard": 1.0,
    }
    return Measurements(np.array(list((values | {"loss_scale": scale}).values()), np.float32), Layout((), ()))


def simulated(overflows, steps, start=2.0**15, interval=2000, smallest=1.0):
    """Records of a run that overflows where a function of step and scale says so."""
    scale, good = start, 0
    for step in range(1, steps + 1):
        overflow = overflows(step, scale)
        yield step, record(scale, overflow)
        good = 0 if overflow else good + 1
        scale = max(scale / 2, smallest) if overflow else scale * 2 if good == interval else scale
        good = 0 if good == interval else good


def alerts(run, **options):
    watch = Watch(**options)
    return [alert for step, m in run for alert in watch.update(step, m) if alert.kind == "loss_scale"]


FAULTS = {
    "overflows at its smallest, from the start": (lambda step, scale: True, {}),
    "overflows at its smallest, later": (lambda step, scale: step > 300, {"start": 4.0}),
    "falls and falls": (lambda step, scale: step > 100 and step % 15 == 0, {}),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_scale_that_does_not_settle_is_told_once(case):
    overflows, options = FAULTS[case]
    (alert,) = alerts(simulated(overflows, 400, **options), source="yaml")
    assert (alert.severity, alert.cause, alert.fix) == ("act", "loss_scale_falls", "precision.policy=bfloat16")
    assert "the loss scale falls and falls" in alert.message


HEALTHY = {
    "comes down from its first value": (lambda step, scale: scale > 2.0**7, {}),
    "probes its limit every 20 steps": (lambda step, scale: scale > 2.0**12, {"interval": 20}),
    "halves once in a while": (lambda step, scale: step % 90 == 0, {}),
    "never overflows": (lambda step, scale: False, {}),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_a_healthy_scale_gives_no_alert(case):
    overflows, options = HEALTHY[case]
    assert alerts(simulated(overflows, 1000, **options)) == []


def test_steps_without_a_scale_give_no_alert_however_often_they_are_skipped():
    assert alerts((step, record(1.0, overflow=True)) for step in range(1, 300)) == []


@pytest.mark.parametrize("interval", [10, 2000])
def test_a_healthy_run_in_float16_gives_no_alert(interval):
    watch, batch = Watch(), make_batch()
    step = jaxprop.make_train_step(
        mean_loss, optax.adam(1e-2), "float16", scaling=Scaling(growth_interval=interval), cast=("inputs",)
    )
    state, told = step.init(make_params(), key=jax.random.key(0)), []
    for i in range(300):
        state, m = step(state, batch, "full" if i % 100 == 99 else "rows")
        told += watch.update(i + 1, m)
    assert [alert.kind for alert in told if alert.kind in ("loss_scale", "flushed")] == []
    assert jnp.isfinite(m.loss)


def test_the_state_of_the_detector_survives_a_restart():
    run = list(simulated(FAULTS["falls and falls"][0], 400))
    whole, first, second = Watch(), Watch(), Watch()
    told = [alert for step, m in run for alert in whole.update(step, m)]
    parts = [alert for step, m in run[:130] for alert in first.update(step, m)]
    second.restore(first.state())
    assert parts + [alert for step, m in run[130:] for alert in second.update(step, m)] == told
