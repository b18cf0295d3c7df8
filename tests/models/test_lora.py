"""Adapters: against Qwix's own and against loops by hand, what is kept, and what is told where they do not fit."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.config.schema.lora import Lora
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, UsageError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.lora import QTYPES, adapted, expect_train, lora, matched, merged, packed, unpacked

KEY = jax.random.key(0)
BATCH = {"inputs": jax.random.normal(jax.random.key(1), (16, 64)), "labels": jnp.arange(16) % 8}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(64, 32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear(32, 8, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(jax.nn.relu(self.first(x))))


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu(nn.Dense(32, name="first")(x))
        return nn.Dense(8, name="head")(nn.MultiHeadDotProductAttention(4, name="attention")(x[None], x[None])[0])


def nnx_model():
    return jaxprop.from_nnx(lambda rngs: Net(rngs))


def functions():
    def init(key, batch):
        first, head = jax.random.split(key)
        return {"first": {"w": jax.random.normal(first, (64, 32)) / 8}, "head": jax.random.normal(head, (32, 8))}, {}

    def apply(params, extras, batch, *, key, train):
        return jax.nn.relu(batch["inputs"] @ params["first"]["w"]) @ params["head"], extras

    return jaxprop.from_functions(init, apply)


MODELS = {
    "nnx": (nnx_model, "first|head"),
    "linen": (lambda: jaxprop.from_linen(Dense()), "first|head|attention/.*"),
    "functions": (functions, "first|head"),
}


def shaken(params):
    """Parameters whose B is not 0."""
    drawn = iter(jax.random.split(jax.random.key(5), 99))

    def draw(path, leaf):
        return jax.random.normal(next(drawn), leaf.shape) * 0.1 if path.endswith("_lora_b") else leaf

    leaves = [draw(path, leaf) for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_framework_begins_as_it_is_to_the_bit_and_computes_what_the_merged_one_does(name):
    make, match = MODELS[name]
    base, model = make(), lora(make(), match=match, rank=4)
    params, extras = model.init(KEY, BATCH)
    plain, _ = base.init(KEY, BATCH)
    outputs = [jax.jit(lambda p, m=m: m.apply(p, extras, BATCH, key=None, train=False)[0])(p)
               for m, p in ((model, params), (base, plain))]  # fmt: skip
    assert np.array_equal(*outputs)
    params = shaken(params)
    changed = model.apply(params, extras, BATCH, key=None, train=False)[0]
    assert np.abs(changed - outputs[0]).max() > 1e-3
    same = base.apply(jaxprop.merge_lora(params), extras, BATCH, key=None, train=False)[0]
    np.testing.assert_allclose(changed, same, atol=1e-5)


def test_an_equinox_module_has_adapters():
    eqx = pytest.importorskip("equinox")
    model = lora(jaxprop.from_equinox(lambda key: eqx.nn.MLP(64, 8, 32, 1, key=key)), match="layers/.*", rank=2)
    params, extras = model.init(KEY, BATCH)
    assert params["layers"][0]["weight_lora_a"].shape == (32, 2)
    changed = shaken(params)
    one, other = (model.apply(p, extras, BATCH, key=None, train=False)[0] for p in (params, changed))
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Qwix's own
@pytest.mark.parametrize("quantize", [None, *QTYPES])
def test_outputs_are_those_of_qwix(quantize):
    """The same W, A and B: Qwix's provider multiplies, and quantizes W, by itself."""
    qwix = pytest.importorskip("qwix")
    more = {} if quantize is None else {"weight_qtype": QTYPES[quantize], "tile_size": 64}
    provider = qwix.LoraProvider(module_path="first", rank=4, alpha=16.0, **more)
    model = lora(nnx_model(), match="first", rank=4, quantize=quantize)
    params, extras = model.init(KEY, BATCH)
    params = shaken(params)
    plain = nnx_model().init(KEY, BATCH)[0]
    net = Net(nnx.Rngs(0))
    nnx.update(net, nnx.State(plain))
    with jax.numpy_dtype_promotion("standard"):
        theirs = qwix.apply_lora_to_model(net, provider, BATCH["inputs"], rngs=nnx.Rngs(0))
        theirs.first.kernel_lora_a[...] = params["first"]["kernel_lora_a"]
        theirs.first.kernel_lora_b[...] = params["first"]["kernel_lora_b"]
        expected = theirs(BATCH["inputs"])
    np.testing.assert_allclose(model.apply(params, extras, BATCH, key=None, train=False)[0], expected, atol=2e-5)


def test_steps_are_those_of_a_loop_by_hand():
    model = lora(functions(), match="first/w", rank=3, alpha=6.0)
    params, extras = model.init(KEY, BATCH)
    step = jaxprop.make_train_step(
        jaxprop.loss_from(model, softmax_cross_entropy), optax.sgd(0.5, momentum=0.9), trainable=jaxprop.is_adapter
    )
    state = step.init(params, extras=extras, key=KEY)
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim} == {(64, 3), (3, 32)}
    own = {"a": params["first"]["w_lora_a"], "b": params["first"]["w_lora_b"]}
    tx = optax.sgd(0.5, momentum=0.9)
    held = tx.init(own)

    def loss(own):
        x, w = BATCH["inputs"], params["first"]["w"]
        logits = jax.nn.relu(x @ w + 2.0 * (x @ own["a"]) @ own["b"]) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["labels"]).mean()

    for _ in range(5):
        state, m = step(state, BATCH)
        value, grads = jax.value_and_grad(loss)(own)
        np.testing.assert_allclose(m.loss, value, rtol=1e-5)
        updates, held = tx.update(grads, held, own)
        own = optax.apply_updates(own, updates)
    np.testing.assert_allclose(state.params["first"]["w_lora_a"], own["a"], atol=1e-5)
    np.testing.assert_allclose(state.params["first"]["w_lora_b"], own["b"], atol=1e-5)
    assert np.array_equal(state.params["first"]["w"], params["first"]["w"])


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_weight_decay_does_not_move_weights_that_are_adapted(quantize):
    """The loss has no derivative by them, which is no reason for a decay to leave them."""
    model = lora(nnx_model(), match="first", rank=2, quantize=quantize)
    params, extras = model.init(KEY, BATCH)
    step = jaxprop.make_train_step(jaxprop.loss_from(model, softmax_cross_entropy), optax.adamw(0.1, weight_decay=0.5))
    state = step.init(params, extras=extras, key=KEY)
    for _ in range(2):
        state, _ = step(state, BATCH)
    moved = [
        path
        for path, old, new in zip(leaf_paths(params), *map(jax.tree.leaves, (params, state.params)), strict=True)
        if not np.array_equal(old, new)
    ]
    beside = ["first/bias", "first/kernel_lora_a", "first/kernel_lora_b"]
    assert moved == [*beside, "head/bias", "head/kernel", "norm/bias", "norm/scale"]


@pytest.mark.parametrize(("quantize", "bits", "error"), [("int8", 8.5, 0.02), ("int4", 4.5, 0.3), ("nf4", 4.5, 0.35)])
def test_a_weight_in_few_bits_takes_few_bits(quantize, bits, error):
    pytest.importorskip("qwix")
    matrix = jax.random.normal(KEY, (128, 24))
    codes, scales = packed(matrix, quantize)
    assert 8 * (codes.nbytes + scales.nbytes) / matrix.size == bits
    assert np.abs(unpacked(codes, scales, quantize, 128) - matrix).max() < error * np.abs(matrix).max()
    params, _ = lora(nnx_model(), match="first", rank=4, quantize=quantize).init(KEY, BATCH)
    assert set(params["first"]) == {"bias", "kernel_codes", "kernel_scales", "kernel_lora_a", "kernel_lora_b"}


@pytest.mark.parametrize("quantize", QTYPES)
def test_codes_are_those_of_qwix(quantize):
    qwix = pytest.importorskip("qwix")
    matrix = jax.random.normal(KEY, (128, 24))
    with jax.numpy_dtype_promotion("standard"):
        made = qwix.quantize(matrix, QTYPES[quantize], channelwise_axes=(1,), tiled_axes={0: 64})
        expected = qwix.dequantize(made)
    assert np.array_equal(unpacked(*packed(matrix, quantize), quantize, 128), expected)


@pytest.mark.parametrize("quantize", QTYPES)
def test_any_number_of_rows_and_columns_of_zeros_are_kept(quantize):
    pytest.importorskip("qwix")
    matrix = jnp.pad(jax.random.normal(KEY, (70, 3)), ((0, 0), (0, 1)))
    made = unpacked(*packed(matrix, quantize), quantize, 70)
    assert made.shape == (70, 4)
    assert np.array_equal(made[:, 3], np.zeros(70))


def test_the_backward_pass_keeps_codes_and_no_weight():
    pytest.importorskip("qwix")
    model = lora(nnx_model(), match="first", rank=4, quantize="nf4")
    params, extras = model.init(KEY, BATCH)

    def outputs(b):
        changed = {**params, "first": {**params["first"], "kernel_lora_b": b}}
        return model.apply(changed, extras, BATCH, key=KEY, train=True)[0]

    _, pull = jax.vjp(outputs, params["first"]["kernel_lora_b"])
    assert (64, 32) not in {leaf.shape for leaf in jax.tree.leaves(pull) if leaf.dtype == jnp.float32}


def test_gradients_of_a_weight_in_few_bits_are_those_of_the_merged_model():
    pytest.importorskip("qwix")
    section = Lora(match="first|head", rank=4, quantize="nf4")
    base, model = nnx_model(), lora(nnx_model(), match="first|head", rank=4, quantize="nf4")
    params, extras = model.init(KEY, BATCH)
    own = {name: leaf for name, leaf in shaken(params)["first"].items() if "_lora_" in name}

    def loss(own, merge):
        changed = {**params, "first": {**params["first"], **own}}
        called, given = (base, merged(changed, section)) if merge else (model, changed)
        return jnp.square(called.apply(given, extras, BATCH, key=KEY, train=True)[0]).sum()

    for one, other in zip(*(jax.tree.leaves(jax.grad(loss)(own, merge)) for merge in (False, True)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"match": "frist"},
            r"lora.match: 'frist' matches no matrix; did you mean 'first'\? \(layers with one: first, ",
        ),
        ({"match": "norm"}, "lora.match: 'norm' matches norm/bias and no matrix of floats, and only matrices have"),
        ({"match": "head/bias"}, "lora.match: 'head/bias' matches head/bias and no matrix"),
        (
            {"match": "head", "rank": 9},
            "lora.rank: 9 is larger than the smaller side of head/kernel, 32 x 8; use at most",
        ),
    ],
)
def test_a_section_that_does_not_fit_is_told_with_the_fix(section, message):
    with pytest.raises(ConfigError, match=message):
        matched(nnx_model().init(KEY, BATCH)[0], Lora(**section))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("hed", r"lora.train: 'hed' matches no parameter; did you mean 'head'\? \(layers: "),
        (
            "first",
            "lora.train: 'first' matches first/kernel, which has adapters; leave it out of lora.match or of this",
        ),
    ],
)
def test_what_is_trained_beside_is_told_where_it_does_not_fit(train, message):
    section = Lora(match="first", rank=2, train=(train,))
    with pytest.raises(ConfigError, match=message):
        expect_train(adapted(nnx_model().init(KEY, BATCH)[0], section, KEY), section)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantize": "int3"}, "unknown quantize 'int3'; did you mean 'int"),
        ({"rank": 0}, "expected rank and alpha to be"),
    ],
)
def test_wrong_arguments_are_told(given, message):
    with pytest.raises(UsageError, match=message):
        lora(nnx_model(), match="first", **given)


def test_qwix_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UsageError, match=r"lora.quantize .*pip install qwix"):
        lora(nnx_model(), match="first", quantize="nf4")
    assert lora(nnx_model(), match="first", rank=2).init(KEY, BATCH)  # which needs none


def test_a_weight_that_lies_in_no_dict_is_refused():
    with pytest.raises(ConfigError, match="only matrices in nested dicts can have adapters"):
        adapted([jnp.ones((4, 4))], Lora(match=".*", rank=2), KEY)


def test_given_weights_are_adapted():
    base = jax.tree.map(lambda leaf: leaf + 1, nnx_model().init(KEY, BATCH)[0])
    params, _ = lora(nnx_model(), match="first", rank=2, base=base).init(KEY, BATCH)
    assert np.array_equal(params["first"]["kernel"], base["first"]["kernel"])


@pytest.mark.parametrize(
    ("kept", "given", "message"),
    [
        (None, "nf4", "kernel is kept with quantize: null, and quantize: nf4 was given"),
        ("int8", None, "kernel is kept with quantize: int8, and quantize: null was given"),
        ("int8", "nf4", "kernel is kept with quantize: int8, and quantize: nf4 was given"),
        ("nf4", "int8", "kernel is kept with quantize: int4 or nf4, and quantize: int8 was given"),
    ],
)
def test_weights_that_are_kept_otherwise_are_not_read_as_if(kept, given, message):
    if kept is not None:
        pytest.importorskip("qwix")
    params = adapted({"kernel": jnp.ones((64, 4))}, Lora(match="output", rank=2, quantize=kept), KEY)
    with pytest.raises(UsageError, match=message):
        jaxprop.merge_lora(params, quantize=given)


def test_adapters_of_another_rank_are_not_scaled_as_if():
    params = adapted({"kernel": jnp.ones((64, 4))}, Lora(match="output", rank=2), KEY)
    with pytest.raises(UsageError, match="kernel has adapters of rank 2, and the rank that was given is 4"):
        merged(params, Lora(match="output", rank=4))
