"""The train step: its arithmetic, its guard, its precision, and that it compiles once."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop import precision
from jaxprop.errors import JaxpropError, ShapeError, UsageError
from jaxprop.types import Objective

SIZES = (5, 7, 3)


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"dense_{i}": {"kernel": rng.normal(size=(n, m)).astype(np.float32) / 2, "bias": np.zeros(m, np.float32)}
        for i, (n, m) in enumerate(itertools.pairwise(SIZES))
    }


def make_batch(seed=0, size=16, weight=None):
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.normal(size=(size, SIZES[0])).astype(np.float32),
        "labels": rng.integers(0, SIZES[-1], size).astype(np.int32),
        "weight": np.ones(size, np.float32) if weight is None else np.asarray(weight, np.float32),
    }


def forward(params, inputs):
    hidden = jnp.tanh(inputs @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
    return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def per_example(params, batch):
    logits = forward(params, batch["inputs"]).astype(jnp.float32)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def masked_loss(params, batch, key):
    weight = batch["weight"].astype(jnp.float32)
    total = jnp.sum(weight)
    safe = jnp.where(total > 0, total, 1.0)
    return jnp.sum(weight * per_example(params, batch)) / safe, {"weight": total}


def mean_loss(params, batch, key):
    return jnp.mean(per_example(params, batch))


def counting_objective():
    """Masked loss whose extras count the calls and hold a running mean, as batch statistics do."""

    def mean(params, extras, batch, key, policy):
        loss, aux = masked_loss(params, batch, key)
        extras = {"calls": extras["calls"] + 1, "mean": 0.9 * extras["mean"] + 0.1 * jnp.mean(batch["inputs"])}
        return loss, (aux["weight"], extras, {"loss_again": (loss * aux["weight"], aux["weight"])})

    return Objective(mean, lambda params, extras, batch, policy: {})


EXTRAS = {"calls": np.int32(0), "mean": np.float32(0)}


def run(loss_fn, tx, batches, *, extras=None, ema_decay=None, prec="float32", scaling=None, params=None, **options):
    train = jaxprop.make_train_step(loss_fn, tx, prec, ema_decay=ema_decay, scaling=scaling, **options)
    state = jaxprop.init_state(
        make_params() if params is None else params, tx, key=jax.random.key(0), extras=extras,
        precision=prec, ema_decay=ema_decay, scaling=scaling, mesh=options.get("mesh"),
    )  # fmt: skip
    records = []
    for batch in batches:
        state, m = train(state, batch)
        records.append(m.host())
    return train, state, records


def assert_same_bits(a, b):
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        x, y = (
            np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v) for v in (x, y)
        )
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8) if x.ndim else x, y.view(np.uint8) if y.ndim else y)


# -- arithmetic -----------------------------------------------------------------------------------


def test_step_is_the_optax_step_written_by_hand():
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(optax.cosine_decay_schedule(1e-2, 10)))
    batches = [make_batch(i) for i in range(6)]
    _, state, records = run(mean_loss, tx, batches)

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
    chex_close(state.params, params)


def chex_close(a, b, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


MASKS = {
    "all ones": np.ones(16),
    "unequal": [1] * 5 + [0] * 9 + [1] * 2,
    "one microbatch empty": np.tile([1, 0, 1, 1], 4),
    "fractional": np.linspace(0.1, 2, 16),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_accumulation_is_the_whole_batch_whatever_the_masks(mask, accumulate):
    batch = make_batch(weight=MASKS[mask])
    _, whole, (expected,) = run(masked_loss, optax.sgd(0.1), [batch])
    _, split, (m,) = run(masked_loss, optax.sgd(0.1), [batch], accumulate=accumulate)
    np.testing.assert_allclose(m.packed, expected.packed, rtol=2e-6)
    chex_close(split.params, whole.params, rtol=1e-5)


def test_averaging_the_averages_would_have_been_noticed():
    batch = make_batch(weight=MASKS["unequal"])
    rows = [np.arange(16)[k::4] for k in range(4)]
    parts = [masked_loss(make_params(), {n: x[r] for n, x in batch.items()}, None)[0] for r in rows]
    whole = masked_loss(make_params(), batch, None)[0]
    assert abs(float(jnp.mean(jnp.stack(parts))) - float(whole)) > 1e-2


def test_a_microbatch_of_nothing_but_padding_may_hold_anything():
    def unguarded(params, batch, key):  # 0 / 0 where nothing counts
        total = jnp.sum(batch["weight"])
        return jnp.sum(batch["weight"] * per_example(params, batch)) / total, {"weight": total}

    batch = make_batch(weight=np.tile([1, 0, 1, 1], 4))
    _, whole, (expected,) = run(masked_loss, optax.sgd(0.1), [batch])
    _, split, (m,) = run(unguarded, optax.sgd(0.1), [batch], accumulate=4)
    np.testing.assert_allclose(m.packed, expected.packed, rtol=2e-6)
    chex_close(split.params, whole.params, rtol=1e-5)


class Pair(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def test_a_batch_may_be_any_pytree():
    batch = Pair(np.arange(8, dtype=np.float32), np.ones(8, np.float32))
    losses = [
        run(lambda p, b, k: jnp.mean((p["w"] * b.x - b.y) ** 2), optax.sgd(0.1), [batch],
            params={"w": np.float32(1)}, accumulate=k)[2][0].loss
        for k in (1, 4)
    ]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_half_precision_leaves_targets_and_weights_as_they_are():
    def loss_fn(params, batch, key):
        zero = (0 * params["w"]).astype(jnp.float32)
        return jnp.max(batch["labels"]) + zero, {"weight": jnp.sum(batch["weight"])}

    batch = {"labels": np.full(999, 100_001, np.float32), "weight": np.ones(999, np.float32)}
    _, _, (m,) = run(loss_fn, optax.sgd(0.1), [batch], params={"w": np.float32(1)}, prec="bfloat16")
    assert (float(m.loss), float(m.weight)) == (100_001, 999)


def test_accumulation_passes_extras_on_and_adds_metrics_up():
    batch = make_batch(weight=MASKS["unequal"])
    _, state, (m,) = run(counting_objective(), optax.sgd(0.1), [batch], extras=EXTRAS, accumulate=4)
    assert int(state.extras["calls"]) == 4
    total, count = m.metrics["loss_again"]
    np.testing.assert_allclose((total / count, count), (m.loss, 7.0), rtol=1e-6)


def test_microbatches_and_steps_have_their_own_keys():
    def noise(params, batch, key):
        return jnp.sum(params["w"] * jax.random.normal(key, ())), {}

    batch = {"x": np.zeros(4, np.float32)}
    seen = [
        [float(m.loss) for m in run(noise, optax.sgd(0.0), [batch] * 3, params={"w": np.float32(1)}, accumulate=k)[2]]
        for k in (1, 2)
    ]
    assert len({*seen[0], *seen[1]}) == 6
    base = jax.random.fold_in(jax.random.key(0), 1)
    np.testing.assert_allclose(seen[0][1], jax.random.normal(base, ()), rtol=1e-6)
    each = [jax.random.normal(jax.random.fold_in(base, k), ()) for k in range(2)]
    np.testing.assert_allclose(seen[1][1], sum(each) / 2, rtol=1e-6)


def test_several_steps_in_one_call_are_the_same_steps():
    tx = optax.adam(1e-2)
    batches = [make_batch(i) for i in range(6)]
    _, one, records = run(masked_loss, tx, batches, ema_decay=0.9)
    stacked = [{n: np.stack([b[n] for b in batches[i : i + 3]]) for n in batches[0]} for i in (0, 3)]
    _, several, packed = run(masked_loss, tx, stacked, ema_decay=0.9, steps_per_call=3)
    assert packed[0].packed.shape[0] == 3
    for i, m in enumerate(records):
        np.testing.assert_allclose(packed[i // 3].at(i % 3).packed, m.packed, rtol=1e-5, equal_nan=True)
    chex_close((several.params, several.ema), (one.params, one.ema), rtol=1e-5)


def test_ema_follows_its_equation():
    batches = [make_batch(i) for i in range(3)]
    expected = make_params()
    for n in range(1, 4):
        _, state, _ = run(masked_loss, optax.sgd(0.5), batches[:n], ema_decay=0.75)
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * np.asarray(p), expected, state.params)
        chex_close(state.ema, expected, rtol=1e-5)


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


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient only"])
@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_nonfinite_step_changes_nothing_and_is_counted(kind, accumulate, form, monkeypatch, compilations):
    if form == "select":  # what an accelerator compiles
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    tx = optax.adamw(1e-2)
    train = jaxprop.make_train_step(faulty(kind), tx, accumulate=accumulate, ema_decay=0.9, schedule=lambda n: n + 1.0)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), extras=EXTRAS, ema_decay=0.9)
    good = {**make_batch(), "bad": np.zeros(16, np.float32)}
    bad = {**make_batch(), "bad": np.eye(16, dtype=np.float32)[3]}
    state, first = train(state, good)
    before = jax.tree.map(jnp.copy, state)
    state, m = train(state, bad)
    m = m.host()
    after = jax.tree.map(jnp.copy, state)
    warm = compilations()
    assert_same_bits(
        (after.params, after.extras, after.opt_state, after.ema, after.key),
        (before.params, before.extras, before.opt_state, before.ema, before.key),
    )
    assert (int(after.step), int(m.skipped), int(m.skips), float(m.update_norm)) == (2, 1, 1, 0.0)
    m = m.host()
    assert not np.isfinite(m.loss) or not np.isfinite(m.grad_norm)
    state, m = train(state, good)
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
    _, _, (exact,) = run(mean_loss, optax.sgd(0.1), [make_batch()])
    _, state, (m,) = run(mean_loss, optax.sgd(0.1), [make_batch()], prec=prec, accumulate=accumulate)
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
            params={"w": np.float32(1)}, prec="float16", scaling=scaling,
        )  # fmt: skip
        assert (float(m.grad_norm) > 0) == alive


def test_parameters_in_float16_keep_their_gradients_over_microbatches():
    half = precision.Policy(jnp.float16, jnp.float16, jnp.float32)
    batch = make_batch(size=64)  # weight times loss scale is 2^21, far beyond float16
    norms = [run(masked_loss, optax.sgd(0.1), [batch], prec=half, accumulate=k)[2][0].grad_norm for k in (1, 2)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-2)


def test_float64_under_x64(x64):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make_params())
    _, state, _ = run(masked_loss, optax.sgd(0.1), [make_batch()], params=params, prec="float64")
    assert state.params["dense_0"]["kernel"].dtype == jnp.float64


# -- compilation and donation -----------------------------------------------------------------------

COMPILE_CASES = [
    dict(zip(("prec", "accumulate", "steps_per_call", "ema_decay", "health", "mesh"), case, strict=True))
    for case in [
        ("float32", 1, 1, None, True, None),
        ("float32", 4, 1, 0.9, True, None),
        ("float32", 2, 3, 0.9, False, None),
        ("bfloat16", 1, 1, None, True, None),
        ("float16", 2, 1, 0.9, True, None),
        ("float16", 1, 3, None, False, None),
        ("float32", 2, 1, 0.9, True, 4),
        ("float16", 1, 2, None, True, 8),
    ]
]


@pytest.mark.parametrize("options", COMPILE_CASES, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_compiles_once_and_donates(options, compilations):
    options = {**options, "mesh": options["mesh"] and jaxprop.make_mesh(options["mesh"])}
    tx = optax.adamw(1e-3)
    params = jax.tree.map(jnp.asarray, make_params())
    prec, ema, mesh, several = (options[k] for k in ("prec", "ema_decay", "mesh", "steps_per_call"))
    train = jaxprop.make_train_step(
        counting_objective(), tx, prec, options["accumulate"], several, options["health"], ema_decay=ema, mesh=mesh
    )
    state = jaxprop.init_state(
        params, tx, key=jax.random.key(0), extras=EXTRAS, precision=prec, ema_decay=ema, mesh=mesh
    )
    counts = []
    for i in range(3):
        batch = make_batch(i)
        if several > 1:
            batch = {n: np.stack([x] * several) for n, x in batch.items()}
        old = state
        state, m = train(state, batch)
        counts.append(compilations())
        assert old.params["dense_0"]["kernel"].is_deleted()
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
    assert not params["dense_0"]["kernel"].is_deleted()
    assert train.layer_names == (("dense_0", "dense_1") if options["health"] else ())
    assert int(state.step) == 3 * several
    assert np.all(np.isfinite(m.host().loss))


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
    chex_close(eight.params, one.params, rtol=1e-5, atol=1e-6)
    assert len(eight.params["dense_0"]["kernel"].sharding.device_set) == 8


def test_injected_learning_rate_is_reported():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(1.0, 0.0, 4))
    _, _, records = run(mean_loss, tx, [make_batch()] * 3)
    np.testing.assert_allclose([m.learning_rate for m in records], [1.0, 0.75, 0.5])
    _, _, (m,) = run(mean_loss, optax.sgd(0.1), [make_batch()])
    assert np.isnan(m.learning_rate)


def test_eval_step_adds_up_exactly_over_a_masked_batch():
    evaluate = jaxprop.make_eval_step(masked_loss)
    batch = make_batch(weight=MASKS["unequal"])
    total, count = evaluate(make_params(), {}, batch)["loss"]
    kept = {n: x[batch["weight"] > 0] for n, x in batch.items()}
    np.testing.assert_allclose((total / count, count), (masked_loss(make_params(), kept, None)[0], 7), rtol=1e-6)


# -- bad input ------------------------------------------------------------------------------------

X = np.zeros((6, 5), np.float32)


def mismatched(prec, ema_decay, state_prec, state_ema):
    tx = optax.sgd(0.1)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), precision=state_prec, ema_decay=state_ema)
    jaxprop.make_train_step(mean_loss, tx, prec, ema_decay=ema_decay)(state, make_batch())


ERRORS = {
    "unknown precision": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float8"), "unknown precision"),
    "float64 without x64": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float64"), "jax_enable_x64"),
    "accumulate 0": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), accumulate=0), "at least 1, got 0"),
    "steps_per_call 0": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), steps_per_call=0), "got 0"),
    "integer parameter": (
        lambda: jaxprop.init_state({"a": {"n": np.arange(3)}}, optax.sgd(1.0), key=jax.random.key(0)),
        "floating-point parameters, got a/n of dtype int32",
    ),
    "loss not a scalar": (
        lambda: run(lambda p, b, k: per_example(p, b), optax.sgd(1.0), [make_batch()]),
        r"got shape \(16,\)",
    ),
    "aux not a scalar": (
        lambda: run(lambda p, b, k: (mean_loss(p, b, k), {"each": b["weight"]}), optax.sgd(1.0), [make_batch()]),
        "each returned by loss_fn to be a scalar",
    ),
    "batch not a multiple": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch(size=6)], accumulate=4),
        "use a batch of 8",
    ),
    "axes disagree": (lambda: run(mean_loss, optax.sgd(1.0), [{"inputs": X, "labels": X[:4]}]), r"labels \(4, 5\)"),
    "half the steps of a call": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch()], steps_per_call=4),
        r"expected 4 batches stacked on a leading axis, got arrays with leading axes \[\(16,\)\]",
    ),
    "state without loss scale": (lambda: mismatched("float16", None, "float32", None), "same precision="),
    "state with loss scale": (lambda: mismatched("float32", None, "float16", None), "same precision="),
    "state without average": (lambda: mismatched("float32", 0.9, "float32", None), "same ema_decay="),
    "state with average": (lambda: mismatched("float32", None, "float32", 0.9), "same ema_decay="),
    "aux called loss": (
        lambda: run(lambda p, b, k: (mean_loss(p, b, k), {"loss": 1.0}), optax.sgd(1.0), [make_batch()]),
        "'loss' is taken",
    ),
    "names too early": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0)).layer_names, "first call"),
    "too many devices": (lambda: jaxprop.make_mesh(99), "between 1 and 8"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_clear_sentence(case):
    call, message = ERRORS[case]
    with pytest.raises(JaxpropError, match=message):
        call()


def test_error_classes():
    assert issubclass(ShapeError, ValueError)
    assert issubclass(UsageError, ValueError)
