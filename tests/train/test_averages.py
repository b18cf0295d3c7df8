"""Averages of the parameters: several decays, and the mean over the last part of a run, against loops by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.schema.run import Run
from jaxprop.errors import UsageError
from jaxprop.train import averages
from jaxprop.train.averages import Ema, Swa
from tests.benches import bits
from tests.steps import EXTRAS, counting_objective, make_batch, make_params


def trained(steps=9, mesh=None, **options):
    """The state after some steps, and the parameters and statistics after each, from the initial ones on."""
    step = jaxprop.make_train_step(counting_objective(), optax.sgd(0.5), mesh=mesh, **options)
    state = step.init(make_params(), key=jax.random.key(0), extras=EXTRAS)
    seen = [(np.asarray(state.params["dense_0"]["kernel"]), np.asarray(state.extras["mean"]))]
    for i in range(steps):
        state, _ = step(state, make_batch(i))
        seen.append((np.asarray(state.params["dense_0"]["kernel"]), np.asarray(state.extras["mean"])))
    return step, state, seen


@pytest.mark.parametrize(("start", "every", "taken"), [(1, 1, range(1, 10)), (4, 2, (4, 6, 8)), (9, 5, (9,))])
def test_the_mean_is_over_every_so_many_updates_from_the_start_on(start, every, taken):
    step, state, seen = trained(swa=Swa(start, every))
    assert step.averages == ("swa",)
    found = step.eval_params(state)["dense_0"]["kernel"], step.eval_extras(state)["mean"]
    for one, values in zip(found, zip(*seen, strict=True), strict=True):
        np.testing.assert_allclose(one, np.mean([values[n] for n in taken], 0), rtol=2e-6, atol=1e-7)


def test_before_its_start_the_mean_is_the_newest_parameters_to_the_bit():
    step, state, _ = trained(steps=5, swa=Swa(7))
    assert bits(step.eval_params(state)) == bits(state.params)
    assert bits(step.eval_extras(state)) == bits(state.extras)


def test_each_of_several_averages_is_the_one_that_it_is_alone():
    step, state, _ = trained(ema_decay=[0.3, 0.9], swa=Swa(3, 2))
    assert step.averages == ("ema_0.3", "ema_0.9", "swa")
    for name, options in zip(step.averages, [{"ema_decay": 0.3}, {"ema_decay": 0.9}, {"swa": Swa(3, 2)}], strict=True):
        alone, of_one, _ = trained(**options)
        assert bits(state.params) == bits(of_one.params)
        for several, one in ((step.eval_params, alone.eval_params), (step.eval_extras, alone.eval_extras)):
            for a, b in zip(jax.tree.leaves(several(state, name)), jax.tree.leaves(one(of_one)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert bits(step.eval_params(state)) == bits(step.eval_params(state, "ema_0.3"))


def test_a_step_that_is_skipped_is_no_part_of_the_mean():
    step = jaxprop.make_train_step(lambda p, b, key: jnp.sum(p["w"] * b["x"]), optax.sgd(1.0), swa=Swa(1))
    state = step.init({"w": jnp.float32(0)}, key=jax.random.key(0))
    for x in (1.0, np.nan, 2.0):
        state, _ = step(state, {"x": jnp.float32([x])})
    assert float(step.eval_params(state)["w"]) == pytest.approx((-1 - 3) / 2)


def test_several_averages_lie_as_their_parameters_do_on_a_mesh():
    def loss(params, batch, key):
        return jnp.mean((batch["x"] @ params["kernel"]) ** 2)

    mesh, batch = jaxprop.make_mesh(fsdp=8), {"x": jnp.ones((8, 64))}
    step = jaxprop.make_train_step(loss, optax.sgd(0.1), mesh=mesh, ema_decay=[0.3, 0.9], swa=Swa(1))
    state = step.init({"kernel": jnp.ones((64, 64))}, key=jax.random.key(0))
    state, _ = step(state, jaxprop.place_batch(batch, mesh))
    wanted = state.params["kernel"].sharding
    assert "fsdp" in str(wanted.spec)
    assert {one.params["kernel"].sharding for one in state.ema} == {wanted}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ema_decay": [0.9, 0.9]}, "a list of different ones"),
        ({"ema_decay": [0.9, 1.0]}, "a number above 0 and below 1"),
        ({"swa": (3, 1)}, r"expected swa to be jaxprop.Swa\(start, every\)"),
        ({"swa": Swa(0, 0)}, r"expected swa to be jaxprop.Swa\(start, every\)"),
    ],
)
def test_what_is_no_average_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        jaxprop.make_train_step(counting_objective(), optax.sgd(0.5), **options)


def test_an_average_that_is_not_kept_is_refused():
    step, state, _ = trained(steps=0, ema_decay=[0.3, 0.9])
    with pytest.raises(UsageError, match=r"unknown average 'ema_0.8'; did you mean 'ema_0.\d'\? \(known: ema_0.3"):
        step.eval_params(state, "ema_0.8")
    step, state, _ = trained(steps=0)
    with pytest.raises(UsageError, match="no average is kept"):
        step.eval_params(state, "swa")


def test_the_configuration_names_averages_as_the_step_does():
    run = Run(steps=1, ema_decay=[0.5, 0.999, 0.99995], swa={"start": 0.5})
    found = averages.averagings(run.ema_decay, Swa(1))
    assert run.averages == tuple(one.name for one in found)
    assert averages.options_of(found) == {"ema_decay": run.ema_decay, "swa": Swa(1)}
    assert found[0] == Ema(0.5)
