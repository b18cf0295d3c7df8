"""The train step: its arithmetic, its guard, and its precision, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.schema import model as schema
from jaxprop.core import precision
from jaxprop.health.signals.settings import DETAILS, Signals
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models import make_model
from jaxprop.train.objective import loss_from
from jaxprop.types import Objective, Spec
from tests.steps import (
    EXTRAS,
    assert_close,
    assert_same_bits,
    counting_objective,
    forward,
    make_batch,
    make_params,
    masked_loss,
    mean_loss,
    run,
)

# -- arithmetic -----------------------------------------------------------------------------------


def test_step_is_the_optax_step_written_by_hand():
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(optax.cosine_decay_schedule(1e-2, 10)))
    batches = [make_batch(i) for i in range(6)]
    _, state, records = run(mean_loss, tx, batches, detail="full")

    @jax.jit
    def by_hand(params, opt_state, batch):
        loss, grads = jax.value_and_grad(mean_loss)(params, batch, None)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, grads, updates

    params = jax.tree.map(jnp.asarray, make_params())
    opt_state = tx.init(params)
    for batch, m in zip(batches, records, strict=True):
        with jax.numpy_dtype_promotion("standard"):  # optax itself needs it
            params, opt_state, loss, grads, updates = by_hand(params, opt_state, batch)
        np.testing.assert_allclose(m.loss, loss, rtol=1e-6)
        np.testing.assert_allclose(m.grad_norm, optax.tree.norm(grads), rtol=1e-6)
        np.testing.assert_allclose(m.update_norm, optax.tree.norm(updates), rtol=1e-5)
        np.testing.assert_allclose(m.param_norm, optax.tree.norm(params), rtol=1e-6)
        for tree, column in (
            (grads, m.layers.grad_norm),
            (updates, m.layers.update_norm),
            (params, m.layers.param_norm),
        ):
            expected = [optax.tree.norm(tree[name]) for name in m.layout.layers]
            np.testing.assert_allclose(column, expected, rtol=1e-5)
    assert_close(state.params, params)


def test_half_precision_leaves_targets_and_weights_as_they_are():
    def loss_fn(params, batch, key):
        zero = (0 * params["w"]).astype(jnp.float32)
        return jnp.max(batch["labels"]) + zero, {"weight": jnp.sum(batch["weight"])}

    batch = {"labels": np.full(999, 100_001, np.float32), "weight": np.ones(999, np.float32)}
    _, _, (m,) = run(loss_fn, optax.sgd(0.1), [batch], params={"w": np.float32(1)}, prec="bfloat16")
    assert (float(m.loss), float(m.weight)) == (100_001, 999)


@pytest.mark.parametrize("detail", [None, "full"])
def test_several_steps_in_one_call_are_the_same_steps(detail):
    tx = optax.adam(1e-2)
    batches = [make_batch(i) for i in range(6)]
    _, one, records = run(masked_loss, tx, batches, ema_decay=0.9, detail=detail)
    stacked = [{n: np.stack([b[n] for b in batches[i : i + 3]]) for n in batches[0]} for i in (0, 3)]
    _, several, packed = run(masked_loss, tx, stacked, ema_decay=0.9, steps_per_call=3, detail=detail)
    assert packed[0].packed.shape[0] == 3
    for i, m in enumerate(records):
        found = packed[i // 3].at(i % 3)
        assert (found.rare is not None) == (detail == "full" and i % 3 == 2)  # what is rare, only in the last
        length = found.layout.length
        np.testing.assert_allclose(found.packed, m.packed[:length], rtol=1e-5)
    assert_close((several.params, several.ema), (one.params, one.ema), rtol=1e-5)


def smoothed(values, decay):
    """The average of a series as its equation has it: of the start and of what came after each update."""
    average = np.asarray(values[0], np.float64)
    for t, value in enumerate(values[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * np.asarray(value, np.float64)
    return average


@pytest.mark.parametrize("decay", [0.15, 0.9999])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 parameters"])
def test_averages_of_parameters_and_statistics_follow_their_equation(decay, half):
    policy = precision.Policy(jnp.bfloat16, jnp.bfloat16, jnp.float32) if half else "float32"
    plain = counting_objective()

    def mean_loss(params, *rest):
        return plain.mean_loss(precision.cast_floating(params, jnp.float32), *rest)

    objective = plain._replace(mean_loss=mean_loss)
    train = jaxprop.make_train_step(objective, optax.sgd(0.5), policy, ema_decay=decay)
    state = train.init(make_params(), key=jax.random.key(0), extras=EXTRAS)
    assert {x.dtype for x in jax.tree.leaves(state.ema)} == {np.dtype(np.float32)}
    kernels, means = [state.params["dense_0"]["kernel"]], [state.extras["mean"]]
    kernels, means = [np.asarray(kernels[0])], [np.asarray(means[0])]
    for i in range(12):
        state, _ = train(state, make_batch(i))
        kernels.append(np.asarray(state.params["dense_0"]["kernel"]))
        means.append(np.asarray(state.extras["mean"]))
    expected = smoothed(kernels, decay)
    # The compiler may average the new parameters before it has rounded them to bfloat16.
    close = {"rtol": 2.0**-8, "atol": 2.0**-10} if half else {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(state.ema.params["dense_0"]["kernel"], expected, **close)
    np.testing.assert_allclose(state.ema.extras["mean"], smoothed(means, decay), rtol=1e-5)
    assert state.ema.extras["calls"] is None
    found, extras = train.eval_params(state), train.eval_extras(state)
    assert found["dense_0"]["kernel"].dtype == kernels[0].dtype
    np.testing.assert_allclose(
        found["dense_0"]["kernel"].astype(np.float32),
        expected,
        rtol=1e-2 if half else 1e-5,
        atol=2.0**-9 if half else 1e-6,
    )
    assert (int(extras["calls"]), extras["mean"].dtype) == (12, np.float32)
    np.testing.assert_allclose(extras["mean"], smoothed(means, decay), rtol=1e-5)


def test_an_average_in_bfloat16_would_not_have_moved():
    """Each update is far below half a unit in the last place of a bfloat16 average."""
    policy = precision.Policy(jnp.bfloat16, jnp.bfloat16, jnp.float32)
    train = jaxprop.make_train_step(lambda p, b, k: -p["w"].sum(), optax.sgd(2.0**-7), policy, ema_decay=0.9999)
    state = train.init({"w": np.ones(3)}, key=jax.random.key(0))
    state = state._replace(step=jnp.int32(10**6))  # the warm-up is over
    for _ in range(20):
        state, _ = train(state, {"x": np.zeros(2)})
    np.testing.assert_array_equal(state.params["w"].astype(np.float32), 1 + 20 / 2**7)
    expected = 1.0
    for i in range(1, 21):
        expected += 1e-4 * (1 + i / 2**7 - expected)
    np.testing.assert_allclose(state.ema.params["w"] - 1, expected - 1, rtol=2e-2)


def test_a_step_not_taken_does_not_count_for_the_warm_up_of_the_average():
    bad = {**make_batch(1), "inputs": np.full((16, 5), np.nan, np.float32)}
    with_bad = run(mean_loss, optax.sgd(0.5), [make_batch(0), bad, make_batch(2)], ema_decay=0.9)[1]
    without = run(mean_loss, optax.sgd(0.5), [make_batch(0), make_batch(2)], ema_decay=0.9)[1]
    assert_close(with_bad.ema, without.ema, rtol=1e-6)


# -- the guard ------------------------------------------------------------------------------------


def faulty(kind):
    """A loss that is not finite where the batch says so: in the loss, or only in its gradient."""

    def loss_fn(params, extras, batch, key, policy):
        loss, (weight, extras, sums) = counting_objective().mean_loss(params, extras, batch, key, policy)
        bad = jnp.any(batch["bad"] > 0)
        w = params["dense_0"]["kernel"][0, 0]
        if kind == "gradient only":  # sqrt at zero: the value is 0, the derivative infinite
            loss = loss + jnp.where(bad, jnp.sqrt(jnp.where(bad, w - jax.lax.stop_gradient(w), 1.0)), 0.0)
        else:
            loss = loss + w * jnp.where(bad, jnp.float32(float(kind)), 0.0)
        return loss, (weight, extras, sums)

    return Objective(loss_fn, lambda *_: {})


@pytest.mark.parametrize(("accumulate", "detail"), [(1, "full"), (4, "lean")])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient only"])
@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_nonfinite_step_changes_nothing_and_is_counted(kind, accumulate, form, detail, monkeypatch, compilations):
    if form == "select":  # what an accelerator compiles
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    tx = optax.adamw(1e-2)
    train = jaxprop.make_train_step(faulty(kind), tx, accumulate=accumulate, ema_decay=0.9, schedule=lambda n: n + 1.0)
    state = train.init(make_params(), key=jax.random.key(0), extras=EXTRAS)
    good = {**make_batch(), "bad": np.zeros(16, np.float32)}
    bad = {**make_batch(), "bad": np.eye(16, dtype=np.float32)[3]}
    state, first = train(state, good, detail)
    before = jax.tree.map(jnp.copy, state)
    state, m = train(state, bad, detail)
    m = m.host()
    after = jax.tree.map(jnp.copy, state)
    warm = compilations()
    assert_same_bits(
        (after.params, after.extras, after.opt_state, after.ema, after.key),
        (before.params, before.extras, before.opt_state, before.ema, before.key),
    )
    assert (int(after.step), int(m.skipped), int(m.skips)) == (2, 1, 1)
    if detail == "full":
        assert float(m.update_norm) == 0
    assert not np.isfinite(m.loss) or not np.isfinite(m.grad_norm)
    state, m = train(state, good, detail)
    assert compilations() == warm
    m = m.host()
    assert (int(state.step), int(m.skipped), int(m.skips)) == (3, 0, 1)
    assert float(first.learning_rate) == 1.0
    assert float(m.learning_rate) == 2.0  # the skipped step took none
    assert not np.array_equal(state.params["dense_0"]["kernel"], after.params["dense_0"]["kernel"])


# -- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prec", "rtol"), [("bfloat16", 3e-2), ("float16", 3e-3)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_half_precision_reports_unscaled_values_near_float32(prec, rtol, accumulate):
    _, _, (exact,) = run(mean_loss, optax.sgd(0.1), [make_batch()], detail="full")
    _, state, (m,) = run(mean_loss, optax.sgd(0.1), [make_batch()], prec=prec, accumulate=accumulate, detail="full")
    for name in ("loss", "grad_norm", "update_norm"):
        np.testing.assert_allclose(getattr(m, name), getattr(exact, name), rtol=rtol)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))} == {np.dtype(np.float32)}


def test_half_precision_computes_in_half():
    seen = {}

    def loss_fn(params, batch, key):
        seen.update(inputs=batch["inputs"].dtype, kernel=params["w"].dtype, labels=batch["labels"].dtype)
        return jnp.mean(batch["inputs"] @ params["w"])

    run(loss_fn, optax.sgd(0.1), [make_batch()], params={"w": np.ones(5, np.float32)}, prec="bfloat16")
    assert seen == {"inputs": jnp.bfloat16, "kernel": jnp.bfloat16, "labels": jnp.int32}


def test_loss_scale_halves_on_overflow_and_doubles_after_good_steps():
    scaling = precision.Scaling(initial=2.0**15, growth_interval=3)
    big, small = make_batch(), make_batch()
    big["inputs"] = big["inputs"] * np.float32(6e4)
    batches = [small, big, small, small, small, small]

    def loss_fn(params, batch, key):
        return jnp.mean(jnp.square(forward(params, batch["inputs"])))

    _, state, records = run(loss_fn, optax.sgd(1e-3), batches, prec="float16", scaling=scaling)
    assert [int(m.skipped) for m in records] == [0, 1, 0, 0, 0, 0]
    assert [float(m.loss_scale) for m in records] == [2.0**15, 2.0**15, 2.0**14, 2.0**14, 2.0**14, 2.0**15]
    assert float(state.loss_scale.scale) == 2.0**15


def test_small_gradients_survive_float16_only_with_the_scale():
    def loss_fn(params, batch, key):
        return jnp.mean(batch["x"] * params["w"]) * 1e-7

    for initial, alive in ((1.0, False), (2.0**15, True)):
        scaling = precision.Scaling(initial=initial)
        _, _, (m,) = run(
            loss_fn, optax.sgd(1.0), [{"x": np.full(4, 1e-2, np.float32)}],
            params={"w": np.float32(1)}, prec="float16", scaling=scaling, cast=("x",),
        )  # fmt: skip
        assert (float(m.grad_norm) > 0) == alive


def test_parameters_in_float16_keep_their_gradients_over_microbatches():
    half = precision.Policy(jnp.float16, jnp.float16, jnp.float32)
    batch = make_batch(size=64)  # weight times loss scale is 2^21, far beyond float16
    norms = [run(masked_loss, optax.sgd(0.1), [batch], prec=half, accumulate=k)[2][0].grad_norm for k in (1, 2)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-2)


@pytest.mark.parametrize("detail", ["lean", "full"])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("health", [True, Signals(spikes="clip", respond=True)], ids=["default", "guarded"])
def test_float64_under_x64(health, accumulate, detail, x64):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make_params())
    batch = make_batch(weight=np.linspace(0.1, 2, 16)) | {"inputs": make_batch()["inputs"].astype(np.float64)}

    def loss_fn(params, batch, key):
        each = optax.losses.softmax_cross_entropy_with_integer_labels(forward(params, batch["inputs"]), batch["labels"])
        weight = batch["weight"].astype(jnp.float64)
        return jnp.sum(weight * each) / jnp.sum(weight), {"weight": jnp.sum(weight)}

    tx = optax.sgd(0.1)
    _, state, (m,) = run(
        loss_fn, tx, [batch], params=params, prec="float64", accumulate=accumulate, detail=detail, health=health,
        ema_decay=0.9,
    )  # fmt: skip
    grads = jax.grad(lambda p: loss_fn(p, batch, None)[0])(params)
    # Weights of microbatches are float32, as is the record.
    rtol = 1e-12 if accumulate == 1 else 1e-6
    assert_close(state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(m.grad_norm, optax.tree.norm(grads), rtol=1e-6)
    assert {x.dtype for x in jax.tree.leaves((state.params, state.ema))} == {np.dtype(np.float64)}


# -- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_eight_devices_are_one(accumulate, steps_per_call):
    batches = [make_batch(i, 32, weight=np.arange(32) % 5 != 0) for i in range(4)]
    if steps_per_call > 1:
        batches = [{n: np.stack([a[n], b[n]]) for n in a} for a, b in zip(batches[::2], batches[1::2], strict=True)]
    options = {"accumulate": accumulate, "steps_per_call": steps_per_call}
    _, one, expected = run(masked_loss, optax.adamw(1e-2), batches, **options)
    _, eight, records = run(masked_loss, optax.adamw(1e-2), batches, mesh=jaxprop.make_mesh(8), **options)
    for m, e in zip(records, expected, strict=True):
        np.testing.assert_allclose(m.packed, e.packed, rtol=1e-5)
    assert_close(eight.params, one.params, rtol=1e-5, atol=1e-6)
    assert len(eight.params["dense_0"]["kernel"].sharding.device_set) == 8


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
@pytest.mark.parametrize("shape", [(4, 8), (4, 4096)], ids=str)
def test_parameters_on_a_mesh_of_explicit_axes(shape, detail, compilations):
    """Fault: the sharding is part of a parameter's type there, and sums over layers lost it."""
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    rng, tx = np.random.default_rng(0), optax.adam(1e-2)
    start = {"b": np.ones(3, np.float32), "w": rng.normal(size=shape).astype(np.float32)}
    batch = rng.normal(size=(8, 4)).astype(np.float32)

    def loss_fn(params, batch, key):
        return jnp.mean((batch @ params["w"]) ** 2) + jnp.sum(params["b"] ** 2)

    @jax.jit
    def by_hand(params, opt_state):
        grads = jax.grad(loss_fn)(params, batch, None)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, optax.tree.norm(grads)

    with jax.set_mesh(mesh):
        sharding = jax.sharding.NamedSharding(mesh, jax.P(None, "model"))
        params = {**start, "w": jax.device_put(start["w"], sharding)}
        step = jaxprop.make_train_step(loss_fn, tx)
        state, counts, records = step.init(params, key=jax.random.key(0)), [], []
        assert state.params["w"].sharding.spec == sharding.spec
        for _ in range(3):
            state, m = step(state, batch, detail)
            counts.append(compilations())
            records.append(m)
        assert counts == [counts[0]] * 3
        assert jax.typeof(state.params["w"]).sharding.spec == sharding.spec
        found = jax.tree.map(np.asarray, (state.params, [m.host() for m in records]))
    opt_state = tx.init(start)
    for m in found[1]:
        with jax.numpy_dtype_promotion("standard"):
            start, opt_state, norm = by_hand(start, opt_state)
        np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-5)
        if detail == "full":
            np.testing.assert_allclose(m.param_norm, optax.tree.norm(start), rtol=1e-5)
    assert_close(found[0], start, rtol=1e-5, atol=1e-6)


def test_injected_learning_rate_is_reported():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(1.0, 0.0, 4))
    _, _, records = run(mean_loss, tx, [make_batch()] * 3)
    np.testing.assert_allclose([m.learning_rate for m in records], [1.0, 0.75, 0.5])
    _, _, (m,) = run(mean_loss, optax.sgd(0.1), [make_batch()])
    assert np.isnan(m.learning_rate)


# -- how much is measured -------------------------------------------------------------------------


def network(name):
    """A built-in model bound to its loss, and a batch for it."""
    rng = np.random.default_rng(0)
    if name == "mlp":
        spec = Spec({"inputs": jax.ShapeDtypeStruct((5,), jnp.float32)}, {"classes": 3})
        section = schema.Mlp(name="mlp", hidden=[8, 8])
        inputs, labels = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)
    else:
        spec = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"vocabulary": 7})
        section = schema.Transformer(name="transformer", layers=1, width=8, heads=2)
        inputs, labels = rng.integers(0, 7, (4, 6)).astype(np.int32), rng.integers(0, 7, (4, 6))
    return make_model(section, spec), {"inputs": inputs, "labels": labels.astype(np.int32)}


EQUAL = [("mlp", "float16", 2), ("transformer", "float32", 1)]


@pytest.mark.parametrize(("name", "prec", "accumulate"), EQUAL)
def test_what_is_measured_changes_nothing_in_the_state(name, prec, accumulate):
    model, batch = network(name)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    health = Signals(spikes="clip", respond=True)
    step = jaxprop.make_train_step(
        loss_from(model, softmax_cross_entropy), tx, prec, accumulate, health=health, ema_decay=0.9
    )
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    states = {}
    for detail in DETAILS if prec == "float16" else DETAILS[:3]:
        state = jaxprop.init_state(
            params, tx, key=jax.random.key(0), extras=extras, precision=prec, ema_decay=0.9, health=health
        )
        for _ in range(3):
            state, m = step(state, batch, detail)
        states[detail] = state
    for state in states.values():
        if name == "mlp":
            lean = states["lean"]
            # The norm that the guard remembers is fused with more or less besides, which can move its last bit.
            assert_close(state.health.spikes, lean.health.spikes, rtol=1e-6)
            health = lean.health._replace(spikes=state.health.spikes)
            assert_same_bits(state, lean._replace(health=health))
        else:  # the compiler fuses each variant in its own way, which can move the last bit
            assert_close(state.params, states["lean"].params, rtol=1e-3, atol=1e-5)
    assert m.rare is not None
