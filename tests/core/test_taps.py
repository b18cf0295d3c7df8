"""Taps: every statistic against gradients of explicit perturbations, through each transformation JAX has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import jaxprop
from jaxprop.core import taps
from jaxprop.core.measurements import TAP_COLUMNS
from jaxprop.core.precision import Scaling
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals

RNG = np.random.default_rng(0)
KINDS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "head": "output"}
PARAMS = {
    name: (RNG.normal(size=(6, 6)) * (5 if name == "sigmoid" else 1.5)).astype(np.float32) for name in KINDS
}  # fmt: skip
PARAMS["relu"][:, 2] = 0  # a unit that is dead
BATCH = {
    "x": RNG.normal(size=(16, 6)).astype(np.float32),
    "weight": (np.arange(16) % 5 + 0.5).astype(np.float32),
}
SCALING = Scaling(initial=256.0)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "head": lambda x: x}


def network(params, x, at):
    """Four layers; `at(value, name, kind)` is a tap, or what stands in for one."""
    for name, kind in KINDS.items():
        x = at(ACTIVATIONS[name](x @ params[name]), name, kind)
    return x


def weighted_mean(outputs, batch):
    each = jnp.mean(jnp.square(outputs).astype(jnp.float32), -1)
    total = jnp.sum(batch["weight"])
    return jnp.sum(batch["weight"] * each) / total, {"weight": total}


def tapped_loss(params, batch, key):
    return weighted_mean(network(params, batch["x"], jaxprop.tap), batch)


def under_jit(params, batch, key):
    return weighted_mean(jax.jit(partial(network, at=jaxprop.tap))(params, batch["x"]), batch)


def under_remat(params, batch, key):
    return weighted_mean(jax.checkpoint(partial(network, at=jaxprop.tap))(params, batch["x"]), batch)


def under_vmap(params, batch, key):
    return weighted_mean(jax.vmap(lambda x: network(params, x, jaxprop.tap))(batch["x"]), batch)


def under_everything(params, batch, key):
    one = jax.checkpoint(jax.jit(partial(network, at=jaxprop.tap)))
    _, outputs = jax.lax.scan(lambda c, x: (c, jax.vmap(partial(one, params))(x)), 0, batch["x"].reshape(4, 4, 6))
    return weighted_mean(outputs.reshape(16, 6), batch)


def full_step(loss, batch=None, params=None, steps=1, **options):
    """One record with everything, of a step that changes nothing."""
    tx = optax.sgd(0.0)
    names = ("precision", "mesh", "scaling")
    state = jaxprop.init_state(
        PARAMS if params is None else params, tx, key=jax.random.key(0),
        **{name: options[name] for name in names if name in options},
    )  # fmt: skip
    batch = BATCH if batch is None else batch
    if steps > 1:
        batch = {name: np.stack([x] * steps) for name, x in batch.items()}
    _, m = jaxprop.make_train_step(loss, tx, steps_per_call=steps, **options)(state, batch, "full")
    return (m if steps == 1 else m.at(steps - 1)).host()


def by_name(m):
    return {
        name: {column: float(getattr(m.taps, column)[i]) for column in TAP_COLUMNS}
        for i, (name, _) in enumerate(m.layout.taps)
    }


def largest(x, uses, parts):
    """Of the microbatches the largest: mean over the uses of a tap, each of every `uses`-th row, of the maximum."""
    x = np.abs(x)
    return max(np.mean([x[k::parts][u::uses].max() for u in range(uses)]) for k in range(parts))


def reference(uses=1, parts=1, params=None, batch=None):
    """What every tap should find: forward in NumPy, backward as the gradient of an added zero."""
    params, batch, values = params or PARAMS, batch or BATCH, {}

    def perturbed(zeros):
        def at(x, name, kind):
            values[name] = x
            return x + zeros[name]

        return weighted_mean(network(params, batch["x"], at), batch)[0]

    zeros = {name: jnp.zeros((len(batch["x"]), 6)) for name in KINDS}
    grads = jax.grad(perturbed)(zeros)
    perturbed(zeros)
    found = {}
    for name, kind in KINDS.items():
        x, g = np.asarray(values[name], np.float64), np.asarray(grads[name], np.float64)
        bent = np.abs(x if kind == "tanh" else 2 * x - 1)
        found[name] = {
            "grad_rms": np.sqrt(np.mean(g**2)),
            "rms": np.sqrt(np.mean(x**2)),
            "abs_max": largest(x, uses, parts),
            "dead": np.mean((x <= 0).all(0)) if kind == "relu" else np.nan,
            "saturated": np.mean(bent > 0.97) if kind in ("tanh", "sigmoid") else np.nan,
            "attention_max": np.nan,
            "attention_entropy": np.nan,
        }
    return found


def assert_taps(found, expected, rtol=1e-5):
    assert list(found) == list(expected)
    for name, columns in expected.items():
        for column, value in columns.items():
            np.testing.assert_allclose(found[name][column], value, rtol=rtol, err_msg=f"{name} {column}")


TRANSFORMATIONS = {  # loss, options, uses of a tap in a microbatch, tolerance
    "plain": (tapped_loss, {}, 1, 1e-5),
    "vmap": (under_vmap, {}, 16, 1e-5),
    "everything": (under_everything, {}, 16, 1e-5),
    "microbatches of unequal weight": (tapped_loss, {"accumulate": 4}, 1, 1e-5),
    "loss scale, microbatches": (
        under_remat,
        {"precision": "float16", "scaling": SCALING, "accumulate": 2, "cast": ("x",)},
        1,
        2e-2,
    ),
    "bfloat16, jit": (under_jit, {"precision": "bfloat16", "cast": ("x",)}, 1, 1e-1),
    "eight devices, microbatches, steps": (under_vmap, {"mesh": 8, "accumulate": 2, "steps": 2}, 8, 1e-5),
}


@pytest.mark.parametrize("case", TRANSFORMATIONS)
def test_every_statistic_through_every_transformation(case):
    loss, options, uses, rtol = TRANSFORMATIONS[case]
    if "mesh" in options:
        options = {**options, "mesh": jaxprop.make_mesh(options["mesh"])}
    m = full_step(loss, **options)
    assert m.layout.taps == tuple(KINDS.items())
    assert_taps(by_name(m), reference(uses, options.get("accumulate", 1)), rtol)


def test_the_reference_tells_dead_units_and_saturation_apart():
    found = reference()
    assert 0 < found["relu"]["dead"] < 1
    assert 0 < found["tanh"]["saturated"] < 1
    assert 0 < found["sigmoid"]["saturated"] < 1


def test_inside_shard_map_a_tap_sees_all_devices():
    mesh = jaxprop.make_mesh(8)

    def loss(params, batch, key):
        def shard(params, x):
            return jax.lax.pmean(jnp.mean(network(params, x, jaxprop.tap) ** 2), "data")

        specs = (PartitionSpec(), PartitionSpec("data"))
        return jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(params, batch["x"])

    even = {**BATCH, "weight": np.ones(16, np.float32)}
    found, expected = by_name(full_step(loss, mesh=mesh)), reference(batch=even)
    for name, columns in expected.items():
        columns["abs_max"] = found[name]["abs_max"]  # a mean over devices, which hold other rows than microbatches
    assert_taps(found, expected)


# -- scans ----------------------------------------------------------------------------------------

STACK = {"w": (RNG.normal(size=(3, 6, 6)) / 2).astype(np.float32)}


def layer_loss(params, batch, row, unroll):
    def layer(x, w_and_i):
        w, i = w_and_i
        x = jaxprop.tap(jax.nn.relu(x @ w), f"{i}" if unroll else "layer", "relu", (i, 3) if row else None)
        return x, None

    x = batch["x"]
    if unroll:
        for i in range(3):
            x, _ = layer(x, (params["w"][i], i))
    else:
        x, _ = jax.lax.scan(layer, x, (params["w"], jnp.arange(3)))
    return weighted_mean(x, batch)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("row", [True, False])
def test_a_scan_gives_one_row_a_layer_where_it_is_told_and_else_one_over_all(row, accumulate):
    scanned, unrolled = (
        full_step(
            lambda p, b, k, unroll=unroll: layer_loss(p, b, row and not unroll, unroll), params=STACK,
            accumulate=accumulate,
        )
        for unroll in (False, True)
    )  # fmt: skip
    if row:
        assert scanned.layout.taps == tuple((f"layer[{i}]", "relu") for i in range(3))
        np.testing.assert_allclose(np.stack(scanned.taps), np.stack(unrolled.taps), rtol=1e-5)
        return
    assert scanned.layout.taps == (("layer", "relu"),)
    for column in ("rms", "grad_rms"):
        each = getattr(unrolled.taps, column)
        np.testing.assert_allclose(getattr(scanned.taps, column), [np.sqrt(np.mean(each**2))], rtol=1e-5)
    parts = [{name: x[k::accumulate] for name, x in BATCH.items()} for k in range(accumulate)]
    each = [full_step(lambda p, b, k: layer_loss(p, b, False, True), part, STACK).taps.abs_max for part in parts]
    np.testing.assert_allclose(scanned.taps.abs_max, [np.mean(each, 1).max()], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, 3e30])
def test_what_overflows_in_one_row_leaves_the_others_alone(bad):
    def loss(params, batch, key):
        scale = jnp.array([1, bad, 1], jnp.float32)
        values = [jaxprop.tap(params["w"] * scale[i], "x", "", (i, 3)) for i in range(3)]
        return sum(jnp.sum(v) for v in values) * 0.5

    m = full_step(loss, params={"w": np.ones(4, np.float32)})
    assert np.isinf(m.taps.rms[1])
    np.testing.assert_allclose(m.taps.rms[[0, 2]], 1)
    np.testing.assert_allclose(m.taps.grad_rms, 0.5)


def test_a_gradient_whose_square_overflows_leaves_the_other_rows_alone():
    def loss(params, batch, key):
        return sum(jnp.sum(jaxprop.tap(params["w"] * 1.0, "x", "", (i, 3))) * (1e30, 2.0, 3.0)[i] for i in range(3))

    m = full_step(loss, params={"w": np.ones(4, np.float32)})
    np.testing.assert_allclose(m.taps.grad_rms, [np.inf, 2, 3])


def test_one_name_over_layers_of_several_widths_is_one_row():
    def loss(params, batch, key):
        wide = jaxprop.tap(batch["x"] * params["w"], "x", "relu")
        return jnp.sum(jaxprop.tap(wide[:, :2], "x", "relu"))

    m = full_step(loss, params={"w": np.zeros(6, np.float32)})
    assert m.layout.taps == (("x", "relu"),)
    assert (m.taps.dead[0], m.taps.rms[0]) == (0, 0)


def test_a_unit_is_dead_only_if_it_is_on_no_example_of_any_microbatch():
    def loss(params, batch, key):
        return jnp.mean(jaxprop.tap(batch["x"] * params["w"], "x", "relu"))

    x = np.full((8, 4), -1, np.float32)
    x[5, 0] = x[2, 1] = 1  # each in a microbatch of its own
    for accumulate in (1, 4):
        m = full_step(loss, {"x": x}, {"w": np.ones(4, np.float32)}, accumulate=accumulate)
        assert m.taps.dead.tolist() == [0.5]


# -- caches and paths -----------------------------------------------------------------------------


@jax.jit
def module_level(x):
    return jaxprop.tap(jnp.sin(x), "inner")


def module_level_body(carry, w):
    return jaxprop.tap(carry * w, "body"), None


@pytest.mark.parametrize("order", ["step first", "plain call first"])
def test_what_jit_and_scan_have_cached_neither_loses_a_tap_nor_leaks_a_collector(order):
    def loss(params, batch, key):
        x, _ = jax.lax.scan(module_level_body, batch["x"], params["w"])
        return jnp.mean(jax.checkpoint(module_level)(module_level(x)) ** 2)

    params = {"w": np.array([1, 2, 0.5], np.float32)}
    module_level.clear_cache()
    x = jnp.asarray(BATCH["x"])
    if order == "plain call first":
        module_level(x)
        jax.lax.scan(module_level_body, x, params["w"])
    first = full_step(loss, params=params)
    plain = jax.value_and_grad(lambda w: loss({"w": w}, BATCH, None))(jnp.asarray(params["w"]))
    again = full_step(loss, params=params)
    np.testing.assert_array_equal(first.packed, again.packed)
    np.testing.assert_allclose(first.loss, plain[0], rtol=1e-6)
    forward = np.cumprod(params["w"])[:, None, None] * BATCH["x"]
    twice = np.stack([np.sin(forward[-1]), np.sin(np.sin(forward[-1]))])
    found = by_name(first)
    assert list(found) == ["body", "inner"]
    np.testing.assert_allclose(found["body"]["rms"], np.sqrt(np.mean(forward**2)), rtol=1e-5)
    np.testing.assert_allclose(found["inner"]["rms"], np.sqrt(np.mean(twice**2)), rtol=1e-5)
    np.testing.assert_allclose(module_level(x), np.sin(BATCH["x"]), rtol=1e-5)


def test_one_step_object_measures_in_every_variant_that_it_traces():
    tx = optax.sgd(0.0)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean(module_level(b["x"] * p["w"])), tx)
    state = jaxprop.init_state({"w": np.ones(6, np.float32)}, tx, key=jax.random.key(0))
    found = {}
    for detail in ("rows", "full", "lean", "full"):
        state, m = step(state, BATCH, detail)
        found.setdefault(detail, []).append(m.host())
    assert [r.taps for r in found["rows"] + found["lean"]] == [None, None]
    values = [r.taps.rms[0] for r in found["full"]]
    np.testing.assert_allclose(values, np.sqrt(np.mean(np.sin(BATCH["x"]) ** 2)), rtol=1e-6)


def test_a_tap_that_no_gradient_passes_is_nan_and_the_others_are_not():
    def loss(params, batch, key):
        x = jaxprop.tap(batch["x"] * params["w"], "on")
        jaxprop.tap(x * 2, "unused")
        return jnp.mean(x) + jnp.mean(jax.lax.stop_gradient(jaxprop.tap(x, "stopped")))

    m = full_step(loss, params={"w": np.ones(6, np.float32)})
    assert [name for name, _ in m.layout.taps] == ["on", "unused", "stopped"]
    assert np.isfinite(m.taps.rms).tolist() == [True, False, False]
    assert np.isfinite(m.taps.grad_rms).tolist() == [True, False, False]
    np.testing.assert_allclose(m.taps.grad_rms[0], 1 / 96, rtol=1e-6)


def test_a_gradient_inside_the_loss_may_pass_a_tap():
    def loss(params, batch, key):
        def potential(x):
            return jnp.sum(jaxprop.tap(jnp.tanh(x * params["w"]), "x"))

        return jnp.mean(jax.vmap(jax.grad(potential))(batch["x"]) ** 2)

    params = {"w": np.linspace(0.5, 1, 6).astype(np.float32)}
    m = full_step(loss, params=params)
    slopes = jax.vmap(jax.grad(lambda x, w: jnp.sum(jnp.tanh(x * w))), (0, None))
    expected = jax.grad(lambda w: jnp.mean(slopes(jnp.asarray(BATCH["x"]), w) ** 2))(params["w"])
    np.testing.assert_allclose(m.grad_norm, np.linalg.norm(expected), rtol=1e-5)


NOT_MEASURED = {
    "integers": lambda x: jaxprop.tap(x.astype(jnp.int32), "x"),
    "a NumPy array": lambda x: jaxprop.tap(np.ones(3, np.float32), "x"),
    "nothing": lambda x: x,
}


@pytest.mark.parametrize("case", NOT_MEASURED)
def test_a_step_without_taps_has_no_row(case):
    def loss(params, batch, key):
        NOT_MEASURED[case](batch["x"])
        return jnp.sum(params["w"] ** 2)

    m = full_step(loss, params={"w": np.ones(6, np.float32)})
    assert m.layout.taps == ()
    assert [column.shape for column in m.taps] == [(0,)] * len(TAP_COLUMNS)


def test_taps_can_be_turned_off():
    assert full_step(tapped_loss, health=Signals(taps=False)).layout.taps == ()


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0)])
def test_shapes_with_nothing_in_them(shape):
    def loss(params, batch, key):
        return jnp.sum(jaxprop.tap(jnp.ones(shape) * params["w"], "x", "relu")) + params["w"]

    m = full_step(loss, params={"w": np.float32(3)})
    assert m.taps.abs_max.tolist() == [3.0 if shape == () else 0.0]
    assert np.isfinite(m.loss)


def test_a_tap_is_the_identity_and_nothing_more_outside_a_step():
    x = jnp.ones(3)
    assert jaxprop.tap(x, "x") is x
    assert not taps.measuring()
    found = []
    taps.find(lambda: found.append(taps.measuring()))
    assert found == [True]
    assert not taps.measuring()
    with pytest.raises(UsageError, match="tanh"):
        jaxprop.tap(x, "x", "tan")


def test_a_failed_trace_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        taps.find(lambda: 1 / 0)
    assert not taps.measuring()


# -- attention and outputs ------------------------------------------------------------------------


def full_attention(q, k, causal, rows, examples=4):
    """Largest |logit| and mean normalized entropy over some queries, one number at a time."""
    largest, entropies = 0.0, []
    for b in range(min(examples, q.shape[0])):
        for h in range(q.shape[2]):
            for t in rows:
                keys = k[b, : t + 1 if causal else None, h * k.shape[2] // q.shape[2]]
                logits = keys.astype(np.float64) @ q[b, t, h].astype(np.float64) / np.sqrt(q.shape[-1])
                largest = max(largest, np.abs(logits).max())
                shares = np.exp(logits - logits.max())
                shares = shares[shares > 0] / shares.sum()
                if len(logits) > 1:
                    entropies.append(-np.sum(shares * np.log(shares)) / np.log(len(logits)))
    return largest, np.mean(entropies) if entropies else 0.0


ATTENTION = {  # batch, time, heads, key heads, the queries looked at
    "short": (3, 7, 2, 2, range(7)),
    "grouped keys": (2, 5, 4, 2, range(5)),
    "one token": (2, 1, 2, 2, range(1)),
    "two tokens": (1, 2, 1, 1, range(2)),
    "exactly sixteen": (1, 16, 1, 1, range(16)),
    "long": (6, 40, 2, 1, [round((i + 1) * 2.5) - 1 for i in range(16)]),
}


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", ATTENTION)
def test_attention_statistics_are_those_of_the_whole_softmax(case, causal, size):
    batch, time, heads, key_heads, rows = ATTENTION[case]
    rng = np.random.default_rng(4)
    q = (size * rng.normal(size=(batch, time, heads, 4))).astype(np.float32)
    k = rng.normal(size=(batch, time, key_heads, 4)).astype(np.float32)
    found = taps.attention_statistics(jnp.asarray(q), jnp.asarray(k), causal)
    np.testing.assert_allclose(found, full_attention(q, k, causal, rows), rtol=2e-5, atol=1e-6)
    assert rows[-1] == time - 1


@pytest.mark.parametrize("causal", [True, False])
def test_attention_statistics_leave_padding_out(causal):
    rng = np.random.default_rng(6)
    q, k = (rng.normal(size=(2, 7, heads, 4)).astype(np.float32) for heads in (4, 2))
    lengths = (5, 3)
    mask = jnp.arange(7) < jnp.array(lengths)[:, None]
    found = taps.attention_statistics(jnp.asarray(q), jnp.asarray(k), causal, mask)
    alone = [full_attention(q[i : i + 1, :n], k[i : i + 1, :n], causal, range(n)) for i, n in enumerate(lengths)]
    several = [n - causal for n in lengths]  # a causal query 0 has one key and no entropy to speak of
    expected = max(a[0] for a in alone), sum(a[1] * n for a, n in zip(alone, several, strict=True)) / sum(several)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    changed = jnp.where(mask[..., None, None], k, 1e3)
    np.testing.assert_array_equal(taps.attention_statistics(jnp.asarray(q), changed, causal, mask), found)


def test_attention_statistics_of_queries_of_another_sequence():
    rng = np.random.default_rng(6)
    q, k = (rng.normal(size=(2, time, 2, 4)).astype(np.float32) for time in (3, 7))
    mask = jnp.arange(7) < jnp.array([5, 2])[:, None]
    found = taps.attention_statistics(jnp.asarray(q), jnp.asarray(k), False, mask, cross=True)
    logits = np.einsum("bthd,bshd->bhts", q, k) / 2
    shares = np.asarray(jax.nn.softmax(jnp.where(mask[:, None, None], logits, -jnp.inf), -1))
    entropies = -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), -1) / np.log([5, 2])[:, None, None]
    largest = np.abs(np.where(mask[:, None, None], logits, 0)).max()
    np.testing.assert_allclose(found, (largest, entropies.mean()), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_attention_statistics_leave_a_step_with_the_gradient_at_its_output(accumulate):
    rng = np.random.default_rng(5)
    batch = {name: rng.normal(size=(4, 6, 2, 4)).astype(np.float32) for name in "qkv"}

    def loss(params, batch, key):
        shares = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", batch["q"], batch["k"]) * params["s"] / 2, -1)
        mixed = jnp.einsum("bhts,bshd->bthd", shares, batch["v"])
        q = batch["q"] * params["s"]
        return jnp.mean(jaxprop.tap(taps.tap_attention(mixed, q, batch["k"], "attn"), "after") * 3)

    m = full_step(loss, batch, {"s": np.float32(2)}, accumulate=accumulate)
    assert m.layout.taps == (("attn", "attention"), ("after", ""))
    parts = [
        full_attention(2 * batch["q"][k::accumulate], batch["k"][k::accumulate], False, range(6))
        for k in range(accumulate)
    ]
    expected = [np.max(parts, 0)[0], np.mean(parts, 0)[1]]
    np.testing.assert_allclose([m.taps.attention_max[0], m.taps.attention_entropy[0]], expected, rtol=1e-5)
    assert np.isnan([m.taps.attention_max[1], m.taps.attention_entropy[1]]).all()
    np.testing.assert_allclose(m.taps.grad_rms, 3 / (4 * 6 * 2 * 4), rtol=1e-6)


def test_attention_is_the_identity_and_adds_nothing_to_the_gradient():
    x = jnp.asarray(RNG.normal(size=(2, 3, 1, 4)).astype(np.float32))

    def loss(x):
        return jnp.sum(jnp.sin(taps.tap_attention(x, x, x, "attn")))

    found, _ = taps.find(loss, x)

    def filled(x):
        with taps.filling(taps.zero_collectors(found)):
            return loss(x)

    np.testing.assert_allclose(jax.grad(filled)(x), jnp.cos(x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["", "relu", "sigmoid"])
def test_examples_of_weight_0_are_no_part_of_what_a_tap_measures(kind):
    x = jnp.asarray([[1.0, -1.0], [2.0, -2.0], [1e3, 1e3]])
    weight = jnp.array([1.0, 0.5, 0.0])

    def loss(x, weight):
        with taps.counting(weight):
            return jnp.sum(taps.tap(x, "a", kind)[:2] ** 2)

    def measured(x, weight):
        found, _ = taps.find(loss, x, weight)

        def filled(collectors):
            with taps.filling(collectors):
                return loss(x, weight)

        return taps.columns(found, jax.jit(jax.grad(filled))(taps.zero_collectors(found)))

    jax.tree.map(np.testing.assert_allclose, measured(x, weight), measured(x[:2], None))
    assert float(measured(x, jnp.ones(2))["abs_max"][0]) == 1e3  # an array of other rows is measured whole
