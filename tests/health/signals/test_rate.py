"""The learning rate that a record names."""

import numpy as np
import optax

from jaxprop.health.signals.settings import Signals
from tests.steps import one_step


def test_the_learning_rate_is_the_schedules_or_the_injected_one():
    health = Signals(respond=True)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)
    assert one_step(tx=injected, detail="lean", health=health).learning_rate == 0.25
    two = optax.chain(injected, optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    assert np.isnan(one_step(tx=two, detail="lean", health=health).learning_rate)
    assert one_step(schedule=lambda n: 0.75 + n, detail="lean", health=health).learning_rate == 0.75
