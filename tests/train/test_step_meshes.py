"""Steps on meshes of 8 devices give the losses, norms, signals and metrics of one device."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxprop
from jaxprop import losses, metrics
from jaxprop.config.schema import model as schema
from jaxprop.errors import ShapeError, UsageError
from jaxprop.models import make_model
from jaxprop.types import Spec

TOKENS, TIME, SIZE = 32, 16, 8
RNG = np.random.default_rng(0)


def transformer():
    config = schema.Transformer(name="transformer", layers=2, width=32, heads=4, dropout=0.0)
    return make_model(config, Spec({"inputs": jax.ShapeDtypeStruct((TIME,), jnp.int32)}, {"vocabulary": TOKENS}))


def cnn():
    # Smooth, since a rounding that carries an input over the kink of a ReLU would change a gradient by a thousandth.
    config = schema.Cnn(name="cnn", channels=(16, 32), hidden=(64,), batch_norm=False)
    return make_model(config, Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)}, {"classes": 4}))


def tokens(seed):
    text = np.random.default_rng(seed).integers(0, TOKENS, (SIZE, TIME + 1)).astype(np.int32)
    return {"inputs": text[:, :-1], "labels": text[:, 1:], "weight": (np.arange(SIZE) != seed).astype(np.float32)}


def images(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, 8, 8, 3)).astype(np.float32)
    return {"inputs": x, "labels": rng.integers(0, 4, SIZE).astype(np.int32), "weight": np.ones(SIZE, np.float32)}


MODELS = {"transformer": (transformer, tokens), "cnn": (cnn, images)}
MESHES = {
    "data": {},
    "fsdp": {"fsdp": -1},
    "data and fsdp": {"fsdp": 4},
    "tensor": {"tensor": 2},
    "fsdp and tensor": {"fsdp": 2, "tensor": 2},
    "sequence": {"sequence": 4},
    "all": {"fsdp": 2, "tensor": 2, "sequence": 2},
}


def trained(model, batches, **options):
    """State and records of a few steps, the last of which measures everything."""
    objective = jaxprop.loss_from(model, losses.softmax_cross_entropy, {"accuracy": metrics.accuracy})
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, eps=1e-3))
    step = jaxprop.make_train_step(objective, tx, ema_decay=0.9, **options)
    params, extras = model.init(jax.random.key(0), batches[0])
    state, seen = step.init(params, key=jax.random.key(1), extras=extras), []
    for i, batch in enumerate(batches):
        state, m = step(state, batch, "full" if i == len(batches) - 1 else "rows")
        seen.append(m)
    return step, state, seen, objective


def signals(m):
    return {name: np.asarray(getattr(m.layers, name)) for name in ("grad_norm", "param_norm", "update_norm")}


@cache
def on_one_device(name):
    """Three batches, and what one device makes of them: the records of the steps and the sums of an evaluation."""
    make, batch = MODELS[name]
    batches = [batch(i) for i in range(3)]
    _, state, seen, objective = trained(make(), batches)
    return batches, seen, evaluated(objective, state, batches[0])


def evaluated(objective, state, batch, mesh=None):
    return jaxprop.make_eval_step(objective, mesh=mesh)(state.params, state.extras, batch)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.timeout(300)
def test_a_mesh_is_one_device(name, mesh):
    if name == "cnn" and "sequence" in MESHES[mesh]:
        pytest.skip("images are no sequences")
    on_mesh = jaxprop.make_mesh(**MESHES[mesh])
    batches, expected, sums = on_one_device(name)
    step, many, got, objective = trained(MODELS[name][0](), batches, mesh=on_mesh)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b.loss, a.loss, rtol=1e-5)
        np.testing.assert_allclose(b.grad_norm, a.grad_norm, rtol=1e-5)
        np.testing.assert_allclose(b.layers.grad_norm, a.layers.grad_norm, rtol=1e-5)
    a, b = signals(expected[-1]), signals(got[-1])
    for signal, values in a.items():
        np.testing.assert_allclose(b[signal], values, rtol=2e-5, err_msg=signal)
    placed = step.shardings(many)
    assert all(
        x.sharding.is_equivalent_to(s, x.ndim) for x, s in zip(*map(jax.tree.leaves, (many, placed)), strict=True)
    )
    found = evaluated(objective, many, batches[0], on_mesh)
    for key, (value, count) in sums.items():
        np.testing.assert_allclose(found[key][0], value, rtol=1e-4, err_msg=key)
        np.testing.assert_allclose(found[key][1], count)


def collectives(step, state, batch):
    text = step.lower(state, batch).compile().as_text()
    return re.findall(r"= (\S+|\(.*?\)) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\(", text)


def test_fsdp_gathers_kernels_and_sums_norms_in_one_collective():
    model, batch = transformer(), tokens(0)
    step, state, _, _ = trained(model, [batch], mesh=jaxprop.make_mesh(fsdp=-1))
    found = collectives(step, state, batch)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.sharding.spec != P()]
    assert kernels
    assert [kind for _, kind in found].count("all-gather") == len(kernels)
    assert {kind for _, kind in found} == {"all-gather", "all-reduce"}  # no activations are moved
    rows = [shape for shape, kind in found if kind == "all-reduce" and "f32[3," in shape]
    assert len(rows) == 1


def test_what_a_device_holds_is_its_share():
    params = {"dense": {"kernel": jnp.ones((256, 512)), "bias": jnp.ones(512)}}
    step = jaxprop.make_train_step(
        lambda p, b, key: jnp.mean((b["x"] @ p["dense"]["kernel"] + p["dense"]["bias"]) ** 2),
        optax.adamw(1e-3), mesh=jaxprop.make_mesh(fsdp=8), ema_decay=0.9,
    )  # fmt: skip
    state = step.init(params, key=jax.random.key(0))
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu, state.ema.params):
        assert tree["dense"]["kernel"].addressable_shards[0].data.size == 256 * 512 // 8
        assert tree["dense"]["bias"].sharding.is_fully_replicated


def test_rules_of_the_users_own():
    params = {"a": jnp.ones((16, 32)), "b": jnp.ones((16, 32))}
    rules = [jaxprop.Rule("a", (None, "tensor")), jaxprop.Rule("b", ("tensor",))]
    mesh = jaxprop.make_mesh(data=2, tensor=4)
    step = jaxprop.make_train_step(
        lambda p, b, key: jnp.mean(b["x"] @ p["a"] @ p["b"].T), optax.sgd(0.1), mesh=mesh, rules=rules
    )
    state, m = step(step.init(params, key=jax.random.key(0)), {"x": np.ones((4, 16), np.float32)})
    assert (state.params["a"].sharding.spec, state.params["b"].sharding.spec) == (P(None, "tensor"), P("tensor"))
    # The mean of x a b^T: each entry of its gradient by a is the mean of x times the sum of b, and so by b.
    np.testing.assert_allclose(m.layers.grad_norm, [(16 * 32) ** 0.5, (16 * 32) ** 0.5], rtol=1e-6)


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"precision": "bfloat16"}, {"steps_per_call": 2}])
def test_fsdp_with_other_options(options):
    model, batches = transformer(), [tokens(0), tokens(1)]
    if "steps_per_call" in options:
        batches = [{name: np.stack([x, x]) for name, x in batch.items()} for batch in batches]
        init = lambda b: {name: x[0] for name, x in b.items()}  # noqa: E731
        model = model._replace(init=lambda key, batch, init_=model.init: init_(key, init(batch)))
    _, _, one, _ = trained(model, batches, **options)
    _, _, many, _ = trained(model, batches, mesh=jaxprop.make_mesh(4, fsdp=-1), **options)
    rtol = 2e-2 if "precision" in options else 1e-5
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(b.loss, a.loss, rtol=rtol)
        np.testing.assert_allclose(b.layers.grad_norm, a.layers.grad_norm, rtol=rtol)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "accumulate", "counts"),
    [("cnn", 1, (1, 2, 4, 8)), ("cnn", 2, (1, 2, 4, 8)), ("transformer", 1, (1, 2, 8))],
    ids=["cnn", "cnn in microbatches", "transformer"],
)
def test_deterministic_across_devices_has_the_same_bits(name, accumulate, counts):
    make, batch = MODELS[name]
    batches = [{name: np.concatenate([x, x]) for name, x in batch(i).items()} for i in range(2)]
    found = {}
    for count in counts:
        mesh = jaxprop.make_mesh(count)
        _, state, seen, _ = trained(make(), batches, mesh=mesh, deterministic="across_devices", accumulate=accumulate)
        found[count] = [np.asarray(x).tobytes() for x in jax.tree.leaves((state.params, state.opt_state, state.extras))]
        found[count] += [np.asarray(m.layers.grad_norm).tobytes() for m in seen]
    assert all(found[count] == found[1] for count in counts)


def test_deterministic_across_devices_is_the_gradient_of_the_whole_batch():
    batches = [tokens(i) for i in range(3)]  # with an example of weight 0 in one of the parts
    _, plain, expected, _ = trained(transformer(), batches)
    _, parts, got, _ = trained(transformer(), batches, mesh=jaxprop.make_mesh(4), deterministic="across_devices")
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b.loss, a.loss, rtol=1e-5)
        np.testing.assert_allclose(b.layers.grad_norm, a.layers.grad_norm, rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (plain.params, parts.params)), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-3)


REFUSED = {
    "another axis": (
        {"mesh": {"fsdp": 2}},
        UsageError,
        "takes a mesh of data 1, 2, 4 or 8 and no other axis, got data 4, fsdp 2",
    ),
    "three devices": ({"mesh": {"devices": 3}}, UsageError, "got data 3"),
    "a batch of 9": ({"mesh": {"devices": 1}, "size": 9}, ShapeError, "a multiple of 8 examples"),
    "another word": (
        {"mesh": {}, "deterministic": "yes"},
        UsageError,
        "deterministic to be 'across_devices', or None; got 'yes'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_deterministic_is_refused(case):
    options, error, says = REFUSED[case]
    mesh, word = jaxprop.make_mesh(**options["mesh"]), options.get("deterministic", "across_devices")
    batch = {"x": np.ones(options.get("size", 24), np.float32)}

    def use():
        loss = lambda p, b, key: jnp.mean((b["x"] * p["w"]) ** 2)  # noqa: E731
        step = jaxprop.make_train_step(loss, optax.sgd(0.1), mesh=mesh, deterministic=word)
        step(step.init({"w": jnp.ones(())}, key=jax.random.key(0)), batch)

    with pytest.raises(error, match=says):
        use()
