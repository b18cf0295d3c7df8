"""`make_train_step`: one object with all that it is given; what it then does is tested by what does it."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprop
from jaxprop.errors import UsageError
from jaxprop.train.compiled import TrainStep


def test_it_makes_a_step_that_trains():
    step = jaxprop.make_train_step(lambda p, b, key: jnp.mean((b["x"] * p["w"] - 3) ** 2), optax.sgd(0.5))
    assert isinstance(step, TrainStep)
    state = step.init({"w": jnp.float32(0)}, key=jax.random.key(0))
    for _ in range(20):
        state, _ = step(state, {"x": jnp.ones(4)})
    assert float(state.params["w"]) == pytest.approx(3)


def test_float16_needs_its_skipped_steps():
    with pytest.raises(UsageError, match="float16 finds its loss scale by skipping steps"):
        jaxprop.make_train_step(lambda p, b, key: p, optax.sgd(0.5), "float16", skip_nonfinite=False)
