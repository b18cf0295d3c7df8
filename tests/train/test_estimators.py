"""Estimates of the gradient without a backward pass: against the gradient, by hand, and in its place in a step."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evosax.algorithms import Open_ES
from jax.flatten_util import ravel_pytree

import jaxprop
from jaxprop.errors import MissingExtraError, UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.models.lstm import Weights, lstm
from jaxprop.train.estimators import DIRECTIONS, described, resolved
from tests.steps import (
    EXTRAS,
    assert_close,
    assert_same_bits,
    counting_objective,
    make_batch,
    make_params,
    masked_loss,
    mean_loss,
    per_example,
    run,
)

KEY = jax.random.key(7)
ESTIMATORS = {
    "forward": {"samples": 8},
    "spsa": {"samples": 8},
    "evolution": {"population": 16, "sigma": 0.05},
}
MATRIX = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32) / 2
POINT = {"a": np.linspace(-1, 1, 4, dtype=np.float32), "b": np.float32([0.5, -0.25])}


def made(name, **settings):
    return jaxprop.estimator(name, **(ESTIMATORS[name] | settings))


def quadratic(params, batch, key):
    flat = jnp.concatenate([params["a"], params["b"]])
    return jnp.sum(jnp.square(MATRIX @ flat - 1)), {"norm": jnp.sum(flat)}


def true_gradient(loss, params, batch=None, key=KEY):
    return np.asarray(ravel_pytree(jax.grad(loss, has_aux=True)(params, batch, key)[0])[0], np.float64)


def estimates(gradient, count, loss=quadratic, params=POINT):
    """Estimates with as many keys, `[count, n]`."""
    take = jax.jit(jax.vmap(lambda key: ravel_pytree(gradient(loss)(params, None, key)[1])[0]))
    return np.asarray(take(jax.random.split(KEY, count)), np.float64)


# -- against the gradient -------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("name", ["forward", "spsa"])
def test_the_mean_of_many_estimates_is_the_gradient_and_their_square_grows_with_n_over_k(name, samples):
    """Of one direction, var g_i = |df|^2 + df_i^2 where v is normal, and |df|^2 - df_i^2 where it is +-1."""
    count, true = 4096, true_gradient(quadratic, POINT)
    found = estimates(jaxprop.estimator(name, samples=samples), count)
    sign, square = (1 if name == "forward" else -1), np.sum(true**2)
    deviation = np.sqrt((square + sign * true**2) / samples / count)
    assert np.all(np.abs(found.mean(0) - true) < 5 * deviation)
    assert np.any(np.abs(found[0] - true) > 20 * deviation)  # one estimate alone is far from it
    expected = (samples + true.size + sign) / samples if name == "forward" else (samples - 1 + true.size) / samples
    assert np.mean(np.sum(found**2, 1)) / square == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("sigma", [1e-2, 0.5])
def test_a_central_difference_of_a_quadratic_is_its_slope_whatever_the_distance(sigma):
    """With v_i = +-1 and s = df . v, every |g_i| is |s|, and df . g is s^2."""
    true = true_gradient(quadratic, POINT)
    for g in estimates(jaxprop.estimator("spsa", sigma=sigma), 8):
        np.testing.assert_allclose(np.abs(g), np.abs(g[0]), rtol=1e-6)
        assert g @ true == pytest.approx(g[0] ** 2, rel=2e-3, abs=1e-3)


def test_an_evolution_strategy_without_shaping_has_the_gradient_of_the_smoothed_loss_as_its_mean():
    found = estimates(jaxprop.estimator("evolution", population=32, sigma=0.1, shaping="none"), 2048)
    true = true_gradient(quadratic, POINT)  # a quadratic that is smoothed has the same gradient
    assert np.all(np.abs(found.mean(0) - true) < 5 * found.std(0) / np.sqrt(len(found)))


def test_evolution_is_evosax_by_hand():
    strategy = Open_ES(16, {k: jnp.asarray(v) for k, v in POINT.items()}, optimizer=optax.sgd(1.0),
                       std_schedule=optax.constant_schedule(0.05))  # fmt: skip
    asking, telling = jax.random.split(jax.random.fold_in(KEY, DIRECTIONS))
    with jax.numpy_dtype_promotion("standard"):
        settings = strategy.default_params
        state = strategy.init(asking, POINT, settings)
        population, state = strategy.ask(asking, state, settings)
        fitness = jax.vmap(lambda params: quadratic(params, None, None)[0])(population)
        after, _ = strategy.tell(telling, population, fitness, state, settings)
    (loss, aux), grads = made("evolution")(quadratic)(POINT, None, KEY)
    moved = jax.tree.map(lambda old, new: old - new, POINT, strategy.get_mean(after))
    assert_close(grads, moved, rtol=1e-5)
    assert_close((loss, aux), quadratic(POINT, None, None))
    # Salimans et al., 2017: 1 / (P sigma) sum_i r_i z_i, of the ranks r from -1/2 to 1/2
    points = jax.vmap(lambda params: ravel_pytree(params)[0])(population)
    z = (points - ravel_pytree(POINT)[0]) / 0.05
    ranks = np.argsort(np.argsort(fitness)) / 15 - 0.5
    np.testing.assert_allclose(ravel_pytree(grads)[0], ranks @ np.asarray(z) / (16 * 0.05), rtol=1e-4)
    np.testing.assert_allclose(z[:8], -z[8:], rtol=1e-4)


@pytest.mark.parametrize("chunk", [2, 8])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_chunks_change_nothing_but_rounding(name, chunk):
    one, many = (made(name, chunk=size)(quadratic)(POINT, None, KEY) for size in (1, chunk))
    assert_close(one, many, rtol=2e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_passes_of_a_step_draw_the_same_numbers(name):
    """A loss that is nothing but noise of its key has no gradient; ranks would be those of the noise."""

    def noise(params, batch, key):
        return jax.random.normal(key) + 0 * jnp.sum(params["a"]), {}

    settings = {"shaping": "none"} if name == "evolution" else {}
    _, grads = made(name, **settings)(noise)(POINT, None, KEY)
    np.testing.assert_allclose(ravel_pytree(grads)[0], 0, atol=1e-5)


# -- in a step ------------------------------------------------------------------------------------


def test_the_backward_pass_stays_what_it_was(compilations):
    batches = [make_batch(i) for i in range(3)]
    plain, one, records = run(mean_loss, optax.adam(0.01), batches)
    named, other, again = run(mean_loss, optax.adam(0.01), batches, gradient="backprop")
    assert_same_bits(one, other)
    assert_same_bits([m.packed for m in records], [m.packed for m in again])
    assert plain.lower(one, batches[0]).as_text() == named.lower(other, batches[0]).as_text()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimate_takes_the_place_of_the_gradient(name):
    """Clipping, the optimizer, norms and records are those of any gradient; taps have none."""
    tx, batch, params = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01)), make_batch(), make_params()
    _, state, (m,) = run(mean_loss, tx, [batch], gradient=made(name), clip=0.1, detail="full")
    key = jax.random.fold_in(jax.random.key(0), 0)
    _, grads = made(name)(lambda p, b, k: (mean_loss(p, b, k), ()))(params, batch, key)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(grads, tx.init(params), params)
    assert_close(state.params, optax.apply_updates(params, updates), rtol=1e-5)
    np.testing.assert_allclose(m.loss, mean_loss(params, batch, None), rtol=1e-6)
    np.testing.assert_allclose(m.grad_norm, optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(m.layers.grad_norm, [optax.tree.norm(grads[k]) for k in sorted(grads)], rtol=1e-5)
    np.testing.assert_allclose(m.clipped_norm, 0.1, rtol=1e-5)
    assert m.taps is None or not len(m.taps.rms)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_goes_on_exactly_from_its_state(name):
    batches, tx = [make_batch(i) for i in range(6)], optax.adam(0.01)
    _, whole, _ = run(mean_loss, tx, batches, gradient=made(name))
    _, half, _ = run(mean_loss, tx, batches[:3], gradient=made(name))
    state = jax.tree.map(jnp.copy, half)
    step = jaxprop.make_train_step(mean_loss, tx, gradient=made(name), cast=("inputs",))
    for batch in batches[3:]:
        state, _ = step(state, batch)
    assert_same_bits(state, whole)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_several_steps_in_a_call_are_the_same_steps(name):
    batches, tx = [make_batch(i) for i in range(4)], optax.sgd(0.01)
    _, one, _ = run(mean_loss, tx, batches, gradient=made(name))
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    _, four, _ = run(mean_loss, tx, [stacked], gradient=made(name), steps_per_call=4)
    assert_close(four.params, one.params, rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_accumulation_is_the_mean_of_the_microbatches_estimates_by_their_weights(name):
    weight = np.float32([1, 2] * 8)
    batch, params = make_batch(weight=weight), make_params()
    _, _, (m,) = run(masked_loss, optax.sgd(0.0), [batch], gradient=made(name), accumulate=2)
    key, total = jax.random.fold_in(jax.random.key(0), 0), 0
    for k, share in ((0, 1 / 3), (1, 2 / 3)):
        part = jax.tree.map(lambda x, k=k: x[k::2], batch)
        _, grads = made(name)(masked_loss)(params, part, jax.random.fold_in(key, k))
        total = total + share * ravel_pytree(grads)[0]
    np.testing.assert_allclose(m.grad_norm, np.linalg.norm(total), rtol=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_statistics_of_the_model_move_once_in_a_step(name):
    _, state, _ = run(counting_objective(), optax.sgd(0.01), [make_batch()] * 2, extras=EXTRAS, gradient=made(name))
    _, plain, _ = run(counting_objective(), optax.sgd(0.01), [make_batch()] * 2, extras=EXTRAS)
    assert int(state.extras["calls"]) == 2
    assert_close(state.extras, plain.extras)


@pytest.mark.parametrize("freeze", ["trainable", "optimizer"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_directions_lie_in_the_trained_parameters_alone(name, freeze):
    params = make_params()

    def moved(params, batch, key):
        """Infinite as soon as something frozen is moved."""
        still = jnp.all(params["dense_0"]["kernel"] == make_params()["dense_0"]["kernel"])
        return jnp.where(still, mean_loss(params, batch, key), jnp.inf)

    tx, options = optax.sgd(0.01), {"trainable": "dense_1/.*"}
    if freeze == "optimizer":
        tx, options = optax.partition({"on": tx, "off": optax.set_to_zero()}, {"dense_0": "off", "dense_1": "on"}), {}
    _, state, (m,) = run(moved, tx, [make_batch()], gradient=made(name), **options)
    assert np.isfinite(m.loss)
    assert not m.skipped
    assert_same_bits(state.params["dense_0"], params["dense_0"])
    assert np.any(np.asarray(state.params["dense_1"]["bias"]) != params["dense_1"]["bias"])


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_devices_that_share_a_batch_have_one_estimate(name, devices):
    batches, tx = [make_batch(i) for i in range(3)], optax.adam(0.01)
    _, one, alone = run(mean_loss, tx, batches, gradient=made(name))
    _, many, shared = run(mean_loss, tx, batches, gradient=made(name), mesh=jaxprop.make_mesh(devices))
    assert_close(many.params, one.params, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose([m.grad_norm for m in shared], [m.grad_norm for m in alone], rtol=1e-2)
    for leaf in jax.tree.leaves(many.params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == devices
        assert all(np.array_equal(copies[0], copy) for copy in copies)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parameters_that_are_split_over_devices_have_the_estimate_of_whole_ones(name):
    params = {"w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)}
    batch = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    loss, tx = (lambda params, batch, key: jnp.mean(jnp.tanh(batch @ params["w"]))), optax.sgd(0.01)
    options = {"params": params, "gradient": made(name)}
    _, one, _ = run(loss, tx, [batch] * 2, **options)
    split = {"mesh": jaxprop.make_mesh(data=2, fsdp=4), "rules": [jaxprop.Rule("w", ("fsdp", None))]}
    _, many, _ = run(loss, tx, [batch] * 2, **split, **options)
    assert not many.params["w"].sharding.is_fully_replicated
    assert_close(many.params, one.params, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_in_bfloat16_parameters_are_moved_in_float32(name, stored):
    policy = jaxprop.policy("bfloat16", params=stored)
    _, state, records = run(mean_loss, optax.adam(0.01), [make_batch()] * 80, prec=policy, gradient=made(name))
    assert records[-1].loss < 0.8 * records[0].loss
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {stored}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_learns_what_the_backward_pass_learns(name):
    """Labels that a linear teacher gives: each classifies nine tenths of the batch as it does after 200 steps."""
    batch = make_batch(size=64)
    batch["labels"] = np.argmax(batch["inputs"] @ np.random.default_rng(1).normal(size=(5, 3)), 1).astype(np.int32)
    _, state, records = run(mean_loss, optax.adam(0.03), [batch] * 200, gradient=made(name))
    hidden = np.tanh(batch["inputs"] @ state.params["dense_0"]["kernel"] + state.params["dense_0"]["bias"])
    found = np.argmax(hidden @ np.asarray(state.params["dense_1"]["kernel"]) + state.params["dense_1"]["bias"], 1)
    assert np.mean(found == batch["labels"]) > 0.9
    assert records[-1].loss < 0.4 < records[0].loss


@pytest.mark.parametrize("name", ["spsa", "evolution"])
def test_a_loss_without_a_gradient_can_be_learned(name):
    """The rate of errors, whose gradient is zero everywhere."""

    def errors(params, batch, key):
        return jnp.mean(jnp.sign(batch["x"] @ params["w"]) != batch["y"])

    x = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    batch, params = {"x": x, "y": np.sign(x[:, 0])}, {"w": np.float32([-0.2, 0.5, 0.5])}
    start = float(errors(params, batch, None))
    rate = optax.sgd(0.1)
    _, found, _ = run(errors, rate, [batch] * 60, params=params, gradient=made(name, sigma=0.2))
    _, still, _ = run(errors, rate, [batch] * 2, params=params)
    assert errors(found.params, batch, None) < 0.1 < start
    assert_same_bits(still.params, params)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_deep_network_takes_less_memory_than_its_backward_pass(name):
    def deep(params, batch, key):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jnp.mean(jax.lax.scan(layer, batch, params)[0])

    params, batch = jnp.zeros((24, 16, 16)), jnp.zeros((2048, 16))
    used = {}
    for gradient in (None, made(name)):
        step = jaxprop.make_train_step(deep, optax.sgd(0.1), gradient=gradient, health=False)
        state = step.init(params, key=KEY)
        used[gradient] = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
    assert used[made(name)] < used[None] / 2


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_rule_for_the_backward_pass_alone_is_told(name):
    def recurrent(params, batch, key):
        zero = jnp.zeros((2, 3))
        return jnp.mean(lstm(False, Weights(params["w"], jnp.ones((3, 12)), jnp.ones(12)), batch, (zero, zero))[1])

    params, batch = {"w": jnp.ones((4, 12))}, jnp.ones((5, 2, 4))
    if name != "forward":
        run(recurrent, optax.sgd(0.1), [batch], params=params, gradient=made(name))
        return
    with pytest.raises(
        UsageError, match="a function in the loss has a custom_vjp, a rule for the backward pass alone; use the"
    ):
        run(recurrent, optax.sgd(0.1), [batch], params=params, gradient=made(name))


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "unknown": (("spas",), {}, "estimator of the gradient.*did you mean 'spsa'|spsa"),
    "no such setting": (("forward",), {"sigma": 0.1}, "the estimator forward has no setting 'sigma'; it takes samples"),
    "none at all": (("backprop",), {"samples": 1}, "the estimator backprop has no setting 'samples'; it takes no sett"),
    "no samples": (("spsa",), {"samples": 0}, "expected samples to be a whole number of at least 1; got 0"),
    "half a sample": (("forward",), {"samples": 0.5}, "expected samples to be a whole number of at least 1; got 0.5"),
    "sigma": (("spsa",), {"sigma": 0.0}, "expected sigma to be a number above 0; got 0.0"),
    "nan": (("evolution",), {"sigma": float("nan")}, "expected sigma to be a number above 0; got nan"),
    "odd": (("evolution",), {"population": 5}, "population is 5, and its points come in pairs z and -z; use 6"),
    "shaping": (("evolution",), {"shaping": "rank"}, "shaping"),
    "chunk": (
        ("spsa",),
        {"samples": 4, "chunk": 3},
        "chunk is 3, which does not divide samples, 4; use a divisor of 4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_sentence(case):
    args, settings, told = BAD[case]
    with pytest.raises(UsageError, match=told):
        jaxprop.estimator(*args, **settings)


@pytest.mark.parametrize(("options", "told"), [
    ({"precision": "float16"}, "float16 scales the loss for the sake of the backward pass"),
    ({"health": Signals(curvature=True)}, "the curvature is found by differentiating the gradient"),
])  # fmt: skip
def test_what_only_a_backward_pass_gives_is_refused(options, told):
    with pytest.raises(UsageError, match=told):
        jaxprop.make_train_step(mean_loss, optax.sgd(0.1), gradient="spsa", **options)


def test_without_evosax_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "evosax", None)
    with pytest.raises(
        MissingExtraError, match=r"needs the package 'evosax', which is not installed; .* pip install e"
    ):
        jaxprop.estimator("evolution")


def test_estimators_in_words():
    assert [described(resolved(name)) for name in ("backprop", None, "forward", "spsa", "evolution")] == [
        None,
        None,
        "forward, samples 1, chunk 1: 1 forward pass with the derivative along a direction",
        "spsa, samples 1, sigma 0.001, chunk 1: 3 forward passes",
        "evolution, population 64, sigma 0.02, shaping ranks, chunk 1: 65 forward passes",
    ]


def test_an_explained_step_says_that_its_gradient_is_an_estimate():
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean(per_example(p, b)), optax.sgd(0.1), gradient="spsa")
    found = step.explain(step.init(make_params(), key=KEY), make_batch())
    assert found.ok
    assert found.notes == (
        "the gradient is an estimate, spsa, samples 1, sigma 0.001, chunk 1: 3 forward passes; without a backward "
        "pass, activations have no gradient",
    )
