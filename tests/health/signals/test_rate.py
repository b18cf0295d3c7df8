"""The learning rate that a record names."""

import jax
import numpy as np
import optax

import jaxprop
from jaxprop.health.signals.rate import Rates
from jaxprop.health.signals.settings import Signals
from tests.steps import make_batch, make_params, mean_loss, one_step


def test_the_learning_rate_is_the_schedules_or_the_injected_one():
    health = Signals(respond=True)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)
    assert one_step(tx=injected, detail="lean", health=health).learning_rate == 0.25
    two = optax.chain(injected, optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    assert np.isnan(one_step(tx=two, detail="lean", health=health).learning_rate)
    assert one_step(schedule=lambda n: 0.75 + n, detail="lean", health=health).learning_rate == 0.75


def test_the_rates_of_groups_are_told_beside_it_as_responses_leave_them():
    schedule = Rates(lambda count: 0.5 + 0 * count, (("lr/dense_1/.*", lambda count: 0.25 * (count + 1)),))
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.5), schedule=schedule, health=Signals(respond=True))
    state, found = step.init(make_params(), key=jax.random.key(0)), []
    for factor in (1.0, 0.5, 0.5):
        state = state._replace(health=state.health._replace(lr_scale=np.float32(factor)))
        state, m = step(state, make_batch(), "lean")
        found.append((float(m.learning_rate), float(m.metrics["lr/dense_1/.*"][0])))
    assert found == [(0.5, 0.25), (0.25, 0.25), (0.25, 0.375)]


def rates(tx, schedule, spoiled, **options):
    """The rate that each of the steps names, some of which have a NaN in their batch."""
    step = jaxprop.make_train_step(mean_loss, tx, schedule=schedule, **options)
    state, found = step.init(make_params(), key=jax.random.key(0)), []
    for bad in spoiled:
        batch = make_batch()
        if bad:
            batch["inputs"][0] = np.nan
        state, m = step(state, batch, "lean")
        found.append(round(float(m.learning_rate), 4))
    return found


def test_the_schedules_count_is_the_optimizers_own():
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    several = optax.MultiSteps(optax.sgd(schedule), 2).gradient_transformation()
    assert rates(several, schedule, [0] * 5) == [1.0, 1.0, 0.9, 0.9, 0.8]
    assert rates(several, schedule, [0, 1, 0, 0]) == [1.0, 1.0, 1.0, 0.9]
    finite = optax.apply_if_finite(optax.sgd(schedule), 5)
    assert rates(finite, schedule, [0, 1, 1, 0, 0], skip_nonfinite=False) == [1.0, 0.9, 0.9, 0.9, 0.8]
    assert rates(optax.sgd(schedule), schedule, [0, 1, 0]) == [1.0, 0.9, 0.9]
