"""Any optax transformation, and a gradient of the user's own: the step against the loop written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from pydantic import TypeAdapter

import jaxprop
from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema.optax_table import OPTIMIZERS as OPTAX
from jaxprop.train.optimizers import make_optimizer
from tests.steps import assert_close, assert_same_bits, make_batch, make_params, mean_loss

BATCHES = [make_batch(i) for i in range(5)]


def sam(**options):
    return contrib.sam(optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2, **options)


SEARCH = ("value", "grad", "value_fn")
OPTIMIZERS = {  # transformation, and the extra arguments that its update takes
    "lbfgs": (optax.lbfgs(), SEARCH),
    "backtracking": (optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)), SEARCH),
    "zoom": (optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)), SEARCH),
    "transparent sam": (sam(), ()),
    "opaque sam": (sam(opaque_mode=True), ("grad_fn",)),
    "sophia": (contrib.sophia(1e-2), ("obj_fn",)),
    "momo": (contrib.momo(0.1), ("value",)),
    "momo adam": (contrib.momo_adam(0.1), ("value",)),
    "polyak": (optax.polyak_sgd(0.1), ("value",)),
    "plateau": (optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau(patience=1)), ("value",)),
    "schedule-free": (contrib.schedule_free_adamw(0.05), ()),
    "schedule-free sgd": (contrib.schedule_free_sgd(0.5), ()),
    "prodigy": (contrib.prodigy(), ()),
    "dowg": (contrib.dowg(), ()),
    "muon": (contrib.muon(0.02), ()),
    "lion": (optax.lion(1e-3), ()),
    "every second step": (optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation(), ()),
    "apply if finite": (optax.apply_if_finite(optax.adam(0.05), 3), ()),
    "adaptive clipping": (optax.chain(optax.adaptive_grad_clip(0.01), optax.adamw(0.05)), ()),
    "noisy": (optax.noisy_sgd(0.1, key=3), ()),
    "injected": (optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 5)), ()),
    "partition of both": (
        optax.partition({"a": optax.adam(0.05), "b": optax.sgd(0.1)}, {"dense_0": "a", "dense_1": "b"}), ()
    ),
}  # fmt: skip


def by_hand(tx, extra, batches, loss_fn=mean_loss, params=None):
    """The loop that optax documents."""
    params = jax.tree.map(jnp.asarray, make_params() if params is None else params)

    @jax.jit
    def take(params, opt_state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch, None)
        known = {
            "value": loss,
            "grad": grads,
            "value_fn": lambda p: loss_fn(p, batch, None),
            "obj_fn": lambda p: loss_fn(p, batch, None),
            "grad_fn": lambda p, _: jax.grad(loss_fn)(p, batch, None),
        }
        updates, opt_state = tx.update(grads, opt_state, params, **{name: known[name] for name in extra})
        return optax.apply_updates(params, updates), opt_state

    with jax.numpy_dtype_promotion("standard"):
        opt_state = tx.init(params)
        for batch in batches:
            params, opt_state = take(params, opt_state, batch)
    return params, opt_state


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_five_steps_are_those_of_plain_optax(case):
    tx, extra = OPTIMIZERS[case]
    params, opt_state = by_hand(tx, extra, BATCHES)
    step = jaxprop.make_train_step(mean_loss, tx)
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES:
        state, m = step(state, batch)
        assert m.skipped == 0
    assert not np.allclose(params["dense_0"]["kernel"], make_params()["dense_0"]["kernel"], rtol=1e-4)
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(opt_state)


IN_YAML = {  # what is not the function of that name, with a rate of 0.1
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=0),
    "polyak_sgd": lambda: optax.polyak_sgd(max_learning_rate=0.1),
    "sam": lambda: contrib.sam(
        optax.sgd(0.1, 0.9), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2, opaque_mode=True
    ),
}  # fmt: skip
TAKES = {
    "lbfgs": SEARCH, "sam": ("grad_fn",), "sophia": ("obj_fn",), "momo": ("value",), "momo_adam": ("value",),
    "polyak_sgd": ("value",),
}  # fmt: skip


def from_yaml(name, params, **text):
    section = TypeAdapter(sections.OptimizerSection).validate_python({"name": name, "lr": 0.1, **text})
    return make_optimizer(section, steps=10, params=params).tx


@pytest.mark.parametrize("name", OPTAX)
def test_two_steps_with_every_optimizer_that_a_configuration_may_name(name):
    make = IN_YAML.get(name) or partial(getattr(optax, name, None) or getattr(contrib, name), 0.1)
    params, _ = by_hand(make(), TAKES.get(name, ()), BATCHES[:2])
    step = jaxprop.make_train_step(mean_loss, from_yaml(name, make_params()), health=False)
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES[:2]:
        state, _ = step(state, batch)
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(params["dense_0"]["kernel"], make_params()["dense_0"]["kernel"])


GROUPED = {  # optimizers of a group of dense_1, beside SGD
    "adam": (lambda: optax.adam(0.05), ()),
    "momo": (lambda: contrib.momo(0.05), ("value",)),
    "polyak_sgd": (lambda: optax.polyak_sgd(max_learning_rate=0.05), ("value",)),
    "schedule_free_adamw": (lambda: contrib.schedule_free_adamw(0.05), ()),
    "prodigy": (lambda: contrib.prodigy(0.05), ()),
}


@pytest.mark.parametrize("name", GROUPED)
def test_steps_with_an_optimizer_of_a_group(name):
    make, extra = GROUPED[name]
    hand = optax.partition({"a": optax.sgd(0.1), "b": make()}, {"dense_0": "a", "dense_1": "b"})
    params, opt_state = by_hand(hand, extra, BATCHES[:3])
    groups = [{"match": "dense_1/.*", "optimizer": {"name": name, "lr": 0.05}}]
    step = jaxprop.make_train_step(mean_loss, from_yaml("sgd", make_params(), groups=groups))
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES[:3]:
        state, _ = step(state, batch)
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)
    if name.startswith("schedule_free"):
        free = opt_state.inner_states["b"].inner_state
        with jax.numpy_dtype_promotion("standard"):
            mine = contrib.schedule_free_eval_params(free._replace(z=free.z["dense_1"]), params["dense_1"])
        params = {**params, "dense_1": mine}
        assert not np.allclose(mine["kernel"], state.params["dense_1"]["kernel"], rtol=1e-3)
    assert_close(step.eval_params(state), params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("detail", ["lean", "full"])
@pytest.mark.parametrize("case", ["lbfgs", "opaque sam", "schedule-free", "momo"])
def test_whatever_is_measured(case, detail):
    tx, extra = OPTIMIZERS[case]
    params, _ = by_hand(tx, extra, BATCHES[:2])
    step = jaxprop.make_train_step(mean_loss, tx)
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES[:2]:
        before = jax.tree.map(jnp.copy, state.params)
        state, m = step(state, batch, detail)
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)
    if detail == "full":
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
        np.testing.assert_allclose(m.update_norm, moved, rtol=1e-3)


@pytest.mark.parametrize("case", ["schedule-free", "schedule-free sgd"])
@pytest.mark.parametrize("clip", [False, True])
def test_schedule_free_training_has_parameters_of_its_own_to_evaluate_with(case, clip):
    tx = OPTIMIZERS[case][0]
    chained = optax.chain(optax.clip_by_global_norm(0.5), tx) if clip else tx
    params, opt_state = by_hand(chained, (), BATCHES)
    free = opt_state[1] if clip else opt_state
    with jax.numpy_dtype_promotion("standard"):
        expected = contrib.schedule_free_eval_params(free, params)
    step = jaxprop.make_train_step(mean_loss, chained)
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES:
        state, _ = step(state, batch)
    assert_close(step.eval_params(state), expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(expected["dense_0"]["kernel"], params["dense_0"]["kernel"], rtol=1e-3)


def test_what_the_optimizer_raises_itself_is_handed_on():
    def update(updates, state, params=None, **extra):
        raise TypeError("the optimizer's own mistake")

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    step = jaxprop.make_train_step(mean_loss, tx)
    with pytest.raises(TypeError, match="own mistake"):
        step(step.init(make_params(), key=jax.random.key(0)), make_batch())


# -- a gradient of one's own ----------------------------------------------------------------------

BOUND = 0.3


def clipped_by_example(loss):
    """The gradient of every example, clipped, and their mean: DP-SGD without its noise."""

    def value_and_grad(params, batch, key):
        def of_one(example):
            return jax.value_and_grad(loss, has_aux=True)(params, jax.tree.map(lambda x: x[None], example), key)

        (losses, aux), grads = jax.vmap(of_one)(batch)
        squares = sum(jnp.sum(g**2, tuple(range(1, g.ndim))) for g in jax.tree.leaves(grads))
        factor = jnp.minimum(1, BOUND / jnp.sqrt(squares))
        grads = jax.tree.map(lambda g: jnp.mean(g * factor.reshape(-1, *[1] * (g.ndim - 1)), 0), grads)
        return (jnp.mean(losses), jax.tree.map(lambda x: jnp.mean(x, 0), aux)), grads

    return value_and_grad


def clipped_by_hand(params, batch):
    """The same example by example, in NumPy."""
    total = jax.tree.map(np.zeros_like, params)
    grad = jax.jit(jax.grad(lambda p, b: mean_loss(p, b, None)))
    for i in range(16):
        grads = grad(params, {name: x[i : i + 1] for name, x in batch.items()})
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        factor = min(1, BOUND / norm)
        total = jax.tree.map(lambda t, g, factor=factor: t + factor * np.asarray(g) / 16, total, grads)
    return total


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
def test_gradients_clipped_example_by_example(detail):
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.5), gradient=clipped_by_example)
    state, expected = step.init(make_params(), key=jax.random.key(0)), make_params()
    for batch in BATCHES[:3]:
        loss = mean_loss(expected, batch, None)
        grads = clipped_by_hand(expected, batch)
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, expected, grads)
        state, m = step(state, batch, detail)
        np.testing.assert_allclose(m.loss, loss, rtol=1e-5)
        norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-5)
        if detail == "full":
            assert m.layout.taps == ()
            np.testing.assert_allclose(m.update_norm, 0.5 * norm, rtol=1e-5)
    assert_close(state.params, expected, rtol=1e-4, atol=1e-6)


def sharpness_aware(loss):
    """SAM in the form of two gradients."""

    def value_and_grad(params, batch, key):
        grads = jax.grad(loss, has_aux=True)(params, batch, key)[0]
        scale = 0.05 / optax.tree.norm(grads)
        return jax.value_and_grad(loss, has_aux=True)(
            jax.tree.map(lambda p, g: p + scale * g, params, grads), batch, key
        )

    return value_and_grad  # fmt: skip


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_sharpness_aware_minimization_with_two_gradients(precision, accumulate):
    def plain(params, batch, key):
        return mean_loss(params, batch, key), {}

    tx = optax.adam(0.05)
    params = jax.tree.map(jnp.asarray, make_params())
    opt_state = tx.init(params)
    one = jax.jit(lambda p, b: sharpness_aware(plain)(p, b, None))
    step = jaxprop.make_train_step(mean_loss, tx, precision, accumulate, gradient=sharpness_aware, cast=("inputs",))
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in BATCHES[:3]:
        parts = [one(params, {n: x[k::accumulate] for n, x in batch.items()}) for k in range(accumulate)]
        grads = jax.tree.map(lambda *g: sum(g) / accumulate, *[grads for _, grads in parts])
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, m = step(state, batch)
        loss = np.mean([loss for (loss, _), _ in parts])
        np.testing.assert_allclose(m.loss, loss, rtol=1e-5 if precision == "float32" else 5e-2)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if precision == "float32" else {"rtol": 5e-2, "atol": 3e-2}
    assert_close(state.params, params, **tolerance)


def test_an_own_gradient_of_what_is_trained_only():
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.5), gradient=sharpness_aware, trainable="dense_1/.*")
    state, _ = step(step.init(make_params(), key=jax.random.key(0)), BATCHES[0])
    params = make_params()

    def loss(head, batch, key):
        return mean_loss({**params, "dense_1": head}, batch, key), {}

    _, grads = jax.jit(sharpness_aware(loss))(params["dense_1"], BATCHES[0], None)
    assert_close(state.params["dense_1"], jax.tree.map(lambda p, g: p - 0.5 * g, params["dense_1"], grads), 1e-5)
    assert_same_bits(state.params["dense_0"], jax.tree.map(jnp.asarray, params["dense_0"]))


# -- gradients that are not finite, left to the optimizer -----------------------------------------

SPOILED = make_batch(2)
SPOILED["inputs"][3, 1] = np.nan


def gentle_loss(params, batch, key):
    """A loss whose gradient is NaN in one row of the first kernel and finite elsewhere."""
    finite = jnp.where(jnp.isfinite(batch["inputs"]), batch["inputs"], 0)
    row = jnp.sum(batch["inputs"] - finite, 0)
    return mean_loss(params, {**batch, "inputs": finite}, key) + jnp.sum(row * jnp.sum(params["dense_0"]["kernel"], 1))


LEFT = {
    "zero nans": (optax.chain(optax.zero_nans(), optax.adam(0.05)), gentle_loss),
    "apply if finite": (optax.apply_if_finite(optax.adam(0.05), 3), mean_loss),
}


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
@pytest.mark.parametrize("case", LEFT)
def test_gradients_that_are_not_finite_are_the_optimizers_where_it_wants_them(case, detail):
    tx, loss_fn = LEFT[case]
    batches = [*BATCHES[:2], SPOILED, *BATCHES[3:]]
    params, opt_state = by_hand(tx, (), batches, loss_fn)
    step = jaxprop.make_train_step(loss_fn, tx, skip_nonfinite=False)
    state = step.init(make_params(), key=jax.random.key(0))
    skips, finite = [], []
    for batch in batches:
        state, m = step(state, batch, detail)
        skips.append((int(m.skipped), int(m.skips)))
        finite.append(bool(np.isfinite(m.grad_norm)))
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)
    assert finite == [True, True, False, True, True]
    assert skips == [(0, 0)] * 5  # every step was taken
    assert np.all(np.isfinite(state.params["dense_0"]["kernel"]))
    if case == "apply if finite":
        assert int(state.opt_state.total_notfinite) == int(opt_state.total_notfinite) == 1


@pytest.mark.parametrize("case", LEFT)
def test_otherwise_the_step_that_is_not_finite_is_left_out(case):
    tx, loss_fn = LEFT[case]
    params, _ = by_hand(tx, (), [*BATCHES[:2], *BATCHES[3:]], loss_fn)
    step = jaxprop.make_train_step(loss_fn, tx)
    state = step.init(make_params(), key=jax.random.key(0))
    for batch in [*BATCHES[:2], SPOILED, *BATCHES[3:]]:
        state, m = step(state, batch)
    assert int(m.skips) == 1
    assert_close(state.params, params, rtol=1e-4, atol=1e-6)


def test_an_average_moves_with_the_updates_of_several_steps():
    batches = [make_batch(seed=i) for i in range(6)]
    one = jaxprop.make_train_step(mean_loss, optax.adam(0.05), ema_decay=0.9)
    state = one.init(make_params(), key=jax.random.key(0))
    for pair in zip(batches[::2], batches[1::2], strict=True):
        state, _ = one(state, jax.tree.map(lambda *x: np.concatenate(x), *pair))
    several = optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation()
    step = jaxprop.make_train_step(mean_loss, several, ema_decay=0.9)
    other = step.init(make_params(), key=jax.random.key(0))
    for batch in batches:
        other, _ = step(other, batch)
    assert_close(other.ema.params, state.ema.params, rtol=1e-4, atol=1e-5)
