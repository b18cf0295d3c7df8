"""Linen: two mode arguments, sown collections, and axes that layers reduce over."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.adapters.linen import LinenOutputs, from_linen

BATCH = {
    "inputs": np.random.default_rng(0).normal(5.0, 3.0, (8, 3)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 2,
}
KEY = jax.random.key(3)


def applied(model, train=True):
    params, extras = jax.jit(model.init)(jax.random.key(0), BATCH)
    return model.apply(params, extras, BATCH, key=KEY, train=train)


class Modes(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None, use_running_average=True):
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        x = nn.BatchNorm(use_running_average=use_running_average)(x)
        return nn.Dropout(0.5)(x, deterministic=deterministic)


def test_both_of_two_mode_arguments_are_set():
    outputs, extras = applied(from_linen(Modes()))
    mean = extras["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * BATCH["inputs"].mean(0), rtol=1e-5)
    assert 0 < np.count_nonzero(outputs == 0) < outputs.size
    outputs, extras = applied(from_linen(Modes()), train=False)
    assert np.all(outputs != 0)
    np.testing.assert_array_equal(extras["batch_stats"]["BatchNorm_0"]["mean"], np.zeros(3))


def test_a_mode_that_the_module_itself_holds_is_left_alone():
    outputs, _ = applied(from_linen(Modes(deterministic=True)))
    assert np.all(outputs != 0)


class Sowing(nn.Module):
    """Sows, perturbs, and has a state that is a tuple as sown values are."""

    @nn.compact
    def __call__(self, x, train):
        self.sow("intermediates", "inputs", x)
        self.perturb("inputs", x)
        carry = self.variable("carry", "pair", lambda: (jnp.zeros(2), jnp.zeros(())))
        if train:
            carry.value = (carry.value[0] + 1, carry.value[1])
            self.sow("losses", "balance", jnp.mean(x**2))
        else:
            self.sow("losses", "balance", jnp.float32(0))
        return nn.Dense(2)(x)


def test_sown_values_are_no_state():
    _, extras = applied(from_linen(Sowing()))
    assert list(extras) == ["carry"]
    np.testing.assert_array_equal(extras["carry"]["pair"][0], [1, 1])


def test_sown_collections_are_returned_when_asked_for():
    outputs, extras = applied(from_linen(Sowing(), collections=("losses", "intermediates")))
    plain, _ = applied(from_linen(Sowing()))
    assert isinstance(outputs, LinenOutputs)
    np.testing.assert_array_equal(outputs.value, plain)
    np.testing.assert_allclose(outputs.collections["losses"]["balance"][0], np.mean(BATCH["inputs"] ** 2), rtol=1e-6)
    np.testing.assert_array_equal(outputs.collections["intermediates"]["inputs"][0], BATCH["inputs"])
    assert list(extras) == ["carry"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_sown_loss_reaches_the_step_and_the_evaluation(accumulate):
    def loss(outputs, batch):
        per_example, weight = softmax_cross_entropy(outputs.value, batch)
        return per_example + sum(jax.tree.leaves(outputs.collections["losses"])), weight

    def started(model, loss):
        params, extras = model.init(jax.random.key(0), BATCH)
        objective = jaxprop.loss_from(model, loss)
        state = jaxprop.init_state(params, optax.sgd(0.0), key=KEY, extras=extras, health=False)
        step = jaxprop.make_train_step(objective, optax.sgd(0.0), health=False, accumulate=accumulate)
        evaluated = objective.sums(params, extras, BATCH, jaxprop.core.precision.policy("float32"))["loss"]
        return step(state, BATCH)[1].loss, evaluated[0] / evaluated[1]

    trained, evaluated = started(from_linen(Sowing(), collections=("losses",)), loss)
    plain, plain_evaluated = started(from_linen(Sowing()), softmax_cross_entropy)
    np.testing.assert_allclose(trained - plain, np.mean(BATCH["inputs"] ** 2), rtol=1e-5)
    np.testing.assert_allclose(evaluated, plain_evaluated, rtol=1e-6)


class Synchronized(nn.Module):
    axis_name: str | None = "devices"

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
        return nn.Dense(2)(nn.Dropout(0.5)(x, deterministic=not train))


@pytest.mark.parametrize("devices", [1, 4])
def test_an_axis_name_makes_statistics_of_the_whole_batch_on_every_mesh(devices):
    mesh = jaxprop.make_mesh(devices) if devices > 1 else None

    def after(model, mesh):
        params, extras = model.init(jax.random.key(0), BATCH)
        state = jaxprop.init_state(params, optax.sgd(0.1), key=KEY, extras=extras)
        step = jaxprop.make_train_step(jaxprop.loss_from(model, softmax_cross_entropy), optax.sgd(0.1), mesh=mesh)
        state, m = step(state, BATCH, "full")
        return state.params, state.extras, m.host().taps.rms

    ours = after(from_linen(Synchronized(), axis_name="devices"), mesh)
    plain = after(from_linen(Synchronized(None)), None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, plain)


def test_an_axis_that_is_bound_outside_is_reduced_over():
    model = from_linen(Synchronized(), axis_name="devices")
    params, extras = model.init(jax.random.key(0), BATCH)
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), BATCH)

    def statistics(batch):
        return model.apply(params, extras, batch, key=KEY, train=True)[1]["batch_stats"]["BatchNorm_0"]["mean"]

    means = jax.vmap(statistics, axis_name="devices")(halves)
    np.testing.assert_allclose(means, np.tile(statistics(BATCH), (2, 1)), rtol=1e-5)


class TrainingOnly(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        if train:
            self.variable("stats", "mean", lambda: x.mean(0))
        self.variable("stats", "calls", lambda: jnp.zeros(()))
        return x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: applied(from_linen(Sowing(), collections=("loss",))), JaxpropError, "sows nothing into .* 'loss'"),
        (lambda: from_linen(Sowing(), collections="losses"), JaxpropError, r"write collections=\('losses',\)"),
        (lambda: from_linen(Sowing(), rngs="dropout"), JaxpropError, r"write rngs=\('dropout',\)"),
        (lambda: from_linen(Sowing(), 3), JaxpropError, "expected call to be .* got int"),
        (lambda: applied(from_linen(Synchronized())), JaxpropError, r"'devices', which .*axis_name='devices'\)"),
        (lambda: applied(from_linen(TrainingOnly())), ShapeError, "create every variable in evaluation too"),
    ],
)
def test_misuse_gets_one_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_name_error_of_the_model_is_told_as_it_is():
    class Broken(nn.Module):
        def __call__(self, x):
            raise NameError("name 'y' is not defined")

    with pytest.raises(NameError, match="'y' is not defined"):
        applied(from_linen(Broken()))


@pytest.mark.parametrize(
    "call",
    [
        lambda module, batch: module(batch["inputs"], use_running_average=False),
        lambda module, batch, *, train: module(batch["inputs"], use_running_average=not train),
        lambda module, batch, training: module(batch["inputs"], use_running_average=not training),
    ],
)
def test_a_call_may_take_train_or_leave_it_out(call):
    _, extras = applied(from_linen(Modes(deterministic=True), call=call))
    mean = extras["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * BATCH["inputs"].mean(0), rtol=1e-5)


def test_a_call_of_other_arguments_is_refused_where_it_is_given():
    with pytest.raises(JaxpropError, match=r"got the arguments \['batch'\]$"):
        from_linen(Modes(), call=lambda batch: batch)
