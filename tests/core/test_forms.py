"""The platform that layers choose their forms by: that of the mesh a step is compiled for."""

import jax
import jax.numpy as jnp
import optax

import jaxprop
from jaxprop.core.forms import forms_for, traced_for
from jaxprop.train.compiled import TrainStep


def test_it_is_that_of_the_default_device_unless_said():
    assert traced_for() == "cpu"
    with forms_for("tpu"):
        assert traced_for() == "tpu"
        with forms_for(None):
            assert traced_for() == "cpu"
    assert traced_for() == "cpu"


def test_a_step_is_traced_for_the_devices_of_its_mesh():
    seen = []

    def loss_fn(params, batch, key):
        seen.append(traced_for())
        return jnp.mean((batch["x"] * params["w"]) ** 2)

    recipe = jaxprop.make_train_step(loss_fn, optax.sgd(0.1)).recipe
    step = TrainStep(recipe._replace(platform="tpu"), 1)
    state = step.init({"w": jnp.ones(3)}, key=jax.random.key(0))
    step.lower(state, {"x": jnp.ones(3)})
    assert set(seen) == {"tpu"}
    assert jaxprop.make_train_step(loss_fn, optax.sgd(0.1), mesh=jaxprop.make_mesh(2))._recipe.platform == "cpu"
