"""What every built-in model keeps: gradients, determinism, dtypes, padding, one compile."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import cast_floating, policy
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models import make_model
from jaxprop.models.arguments import masks_tokens
from jaxprop.models.layers import ACTIVATIONS, INITS
from jaxprop.tasks.tokens import loss_of_sequences
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec
from tests.gradients import check

FLOAT = Spec({"inputs": jax.ShapeDtypeStruct((5, 5, 1), jnp.float32)}, {"classes": 3})
TABLE = Spec(
    {"inputs": jax.ShapeDtypeStruct((4,), jnp.float32), "categories": jax.ShapeDtypeStruct((2,), jnp.int32)},
    {"classes": 3, "categories": (2, 3)},
)
TOKENS = Spec({"inputs": jax.ShapeDtypeStruct((5,), jnp.int32)}, {"vocabulary": 7})
TEXTS = Spec(
    {"inputs": jax.ShapeDtypeStruct((5,), jnp.int32), "mask": jax.ShapeDtypeStruct((5,), jnp.float32)},
    {"classes": 3, "vocabulary": 7},
)
PAIRS = Spec({**TOKENS.batch, "targets": jax.ShapeDtypeStruct((4,), jnp.int32)}, TOKENS.sizes)
SMALL = {
    "mlp": (schema.Mlp, {"hidden": (6, 5), "batch_norm": True}, FLOAT),
    "cnn": (schema.Cnn, {"channels": (2, 3), "hidden": (4,)}, FLOAT),
    "mlp, table": (schema.Mlp, {"hidden": (6, 5), "embedding": 2}, TABLE),
    "resnet": (schema.ResNet, {"depths": (1, 1), "widths": (4, 5)}, FLOAT),
    "bottlenecks": (
        schema.ResNet,
        {"block": "bottleneck", "norm": "group", "groups": 1, "depths": (1, 1), "widths": (4, 5)},
        FLOAT,
    ),
    "vit": (schema.Vit, {"layers": 1, "width": 8, "heads": 2, "ff_multiple": 2, "patch": 5}, FLOAT),
    "elman": (schema.Rnn, {"cell": "elman", "width": 4, "layers": 2}, TOKENS),
    "gru": (schema.Rnn, {"cell": "gru", "width": 4}, TOKENS),
    "lstm": (schema.Rnn, {"cell": "lstm", "width": 4}, TOKENS),
    "transformer": (schema.Transformer, {"layers": 1, "width": 8, "heads": 2, "ff_multiple": 2}, TOKENS),
    "bilstm": (schema.Rnn, {"cell": "lstm", "width": 4, "bidirectional": True, "pool": "mean"}, TEXTS),
    "encoder": (
        schema.Transformer,
        {"layers": 1, "width": 8, "heads": 2, "kv_heads": 1, "norm": "rms", "ff_multiple": 2},
        TEXTS,
    ),
    "post": (
        schema.Transformer,
        {
            "layers": 1,
            "width": 8,
            "heads": 2,
            "ff_multiple": 2,
            "norm_order": "post",
            "pool": "first",
            "token_types": 2,
            "positions": "learned",
            "activation": "gelu_exact",
        },
        TEXTS,
    ),
    "seq2seq_transformer": (
        schema.Seq2SeqTransformer,
        {"layers": 1, "width": 8, "heads": 2, "kv_heads": 1, "ff_multiple": 2},
        PAIRS,
    ),
    "seq2seq_rnn": (schema.Seq2SeqRnn, {"width": 4}, PAIRS),
}
KEY = jax.random.key(3)


def small(case, **changes):
    section, options, spec = SMALL[case]
    return make_model(section(name=name_of(section), **{"dropout": 0.2} | options | changes), spec), batch_of(spec)


def name_of(section):
    (name,) = get_args(section.model_fields["name"].annotation)
    return name


def batch_of(spec, size=4, seed=0):
    rng = np.random.default_rng(seed)
    weight = np.ones(size, np.float32)
    weight[-1] = 0
    if spec is TOKENS:
        tokens = rng.integers(0, next(iter(spec.sizes.values())), (size, 6)).astype(np.int32)
        mask = rng.integers(0, 2, (size, 5)).astype(np.float32)
        return {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": mask, "weight": weight}
    if spec is PAIRS:
        source, target = (np.arange(n) < np.arange(size)[:, None] % n + 1 for n in (5, 4))
        tokens = [np.where(m, rng.integers(0, 7, m.shape), 0).astype(np.int32) for m in (source, target, target)]
        masks = {"input_mask": source.astype(np.float32), "mask": target.astype(np.float32), "weight": weight}
        return dict(zip(("inputs", "targets", "labels"), tokens, strict=True)) | masks
    labels = rng.integers(0, next(iter(spec.sizes.values())), size).astype(np.int32)
    if spec is TEXTS:
        mask = np.arange(5) < np.arange(size)[:, None] % 4 + 1
        tokens = np.where(mask, rng.integers(0, 7, (size, 5)), 0).astype(np.int32)
        return {"inputs": tokens, "labels": labels, "mask": mask.astype(np.float32), "weight": weight}
    inputs = rng.normal(size=(size, *spec.batch["inputs"].shape)).astype(np.float32)
    columns = {"categories": rng.integers(0, 2, (size, 2)).astype(np.int32)} if spec is TABLE else {}
    return {"inputs": inputs, "labels": labels, "weight": weight, **columns}


def loss_for(spec):
    return loss_of_sequences(softmax_cross_entropy) if masks_tokens(spec) else softmax_cross_entropy


def drawn(model, batch, dtype=jnp.float64):
    """Parameters of plausible size in which no bias is zero and no gradient vanishes, and the first extras."""
    params, extras = jax.eval_shape(model.init, KEY, batch)
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5, dtype)

    return jax.tree.map(draw, params), jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), extras)


def loss_of(case, **changes):
    """The mean loss of a small model as a function of its parameters, and those parameters."""
    model, batch = small(case, **changes)
    params, extras = drawn(model, batch)
    mean_loss = loss_from(model, loss_for(SMALL[case][2])).mean_loss
    return lambda params: mean_loss(params, extras, batch, KEY, policy("float64"))[0], params


@pytest.mark.parametrize("case", list(SMALL))
def test_gradients_of_every_activation(x64, monkeypatch, case):
    activations = dict(ACTIVATIONS)
    one_hot = dict(zip(activations, np.eye(len(activations)), strict=True))
    share = [np.eye(len(activations))[0]]

    def chosen(x):  # one program for all activations: compiling each takes seconds
        return sum(share[0][i] * activation(x) for i, activation in enumerate(activations.values()))

    monkeypatch.setitem(ACTIVATIONS, "relu", chosen)
    loss, params = loss_of(case, activation="relu", dropout=0.0)

    def loss_with(params, one_hot):
        share[0] = one_hot
        return loss(params)

    check(loss_with, params, one_hot)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("case", list(SMALL))
def test_a_model_uses_the_activation_its_section_names(monkeypatch, case, activation):
    calls = []
    monkeypatch.setitem(ACTIVATIONS, activation, lambda x: calls.append(activation) or x)
    model, batch = small(case, activation=activation)
    shapes = jax.eval_shape(model.init, KEY, batch)
    jax.eval_shape(lambda params, extras: model.apply(params, extras, batch, key=KEY, train=True), *shapes)
    assert calls


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mlp", {"batch_norm": False}),
        ("cnn", {"batch_norm": False, "convs_per_block": 2, "kernel": 2}),
        ("elman", {}),
        ("transformer", {"positions": "learned", "tie_embeddings": False}),
        ("transformer", {"feed_forward": "swiglu", "norm": "rms", "kv_heads": 1}),
        ("vit", {"pool": "mean", "positions": "sincos"}),
        ("bilstm", {"pool": "last", "cell": "gru", "layers": 2}),
        ("seq2seq_transformer", {"positions": "learned", "tie_embeddings": False, "kv_heads": None, "norm": "rms"}),
        ("seq2seq_rnn", {"layers": 2}),
    ],
)
def test_gradients_with_dropout_and_other_structure(x64, case, changes):
    loss, params = loss_of(case, dropout=0.3, **changes)
    check(lambda params, _: loss(params), params)


@pytest.mark.parametrize("case", list(SMALL))
def test_dropout_follows_the_key_and_evaluation_is_deterministic(case, compilations):
    model, batch = small(case, dropout=0.5)
    params, extras = drawn(model, batch, jnp.float32)
    train = jax.jit(lambda key: model.apply(params, extras, batch, key=key, train=True)[0])
    evaluate = jax.jit(lambda key: model.apply(params, extras, batch, key=key, train=False))
    one, another = jax.random.key(0), jax.random.key(1)
    trained, (outputs, after) = train(one), evaluate(one)
    before = compilations()
    again, other, evaluated = train(one), train(another), evaluate(another)[0]
    assert compilations() == before
    assert_same(trained, again)
    assert jnp.any(trained != other)
    assert_same(outputs, evaluated)
    jax.tree.map(assert_same, after, extras)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", list(SMALL))
def test_the_compute_dtype_is_that_of_the_params(case, dtype):
    model, batch = small(case)
    shapes = jax.eval_shape(model.init, KEY, batch)

    def apply(params, extras):
        inputs = batch["inputs"] if batch["inputs"].dtype == np.int32 else batch["inputs"].astype(dtype)
        return model.apply(cast_floating(params, dtype), extras, {**batch, "inputs": inputs}, key=KEY, train=True)

    outputs, extras = jax.eval_shape(apply, *shapes)
    assert outputs.dtype == dtype
    assert [x.dtype for x in jax.tree.leaves(extras)] == [x.dtype for x in jax.tree.leaves(shapes[1])]


@pytest.mark.parametrize("case", ["mlp", "cnn", "resnet"])
def test_padding_moves_neither_batch_statistics_nor_other_outputs(case):
    model, batch = small(case, dropout=0.0)
    params, extras = drawn(model, batch, jnp.float32)
    apply = jax.jit(lambda batch: model.apply(params, extras, batch, key=KEY, train=True))
    other = {**batch, "inputs": batch["inputs"].copy()}
    other["inputs"][-1] = 100
    (outputs, after), (outputs_other, after_other) = apply(batch), apply(other)
    assert_same(outputs[:-1], outputs_other[:-1])
    jax.tree.map(assert_same, after, after_other)
    assert all(jnp.any(x != y) for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(extras), strict=True))


@pytest.mark.parametrize("case", list(SMALL))
def test_shapes_and_readable_paths(case):
    model, batch = small(case)
    params, extras = jax.eval_shape(model.init, KEY, batch)
    outputs, _ = jax.eval_shape(lambda p, e: model.apply(p, e, batch, key=None, train=False), params, extras)
    spec = SMALL[case][2]
    answers = batch["labels"].shape if spec in (TOKENS, PAIRS) else [4]
    assert outputs.shape == (*answers, next(iter(spec.sizes.values())))
    block = "blocks/0/attn/qkv/kernel"
    expected = {
        "mlp": "head/kernel", "mlp, table": "categories/tables/0/embedding", "cnn": "blocks/0/0/conv/kernel",
        "resnet": "stages/1/0/shortcut/conv/kernel", "bottlenecks": "stages/0/0/layers/2/norm/scale",
        **dict.fromkeys(("vit", "transformer", "encoder", "post"), block),
            "bilstm": "layers/0/backward/recurrent/kernel",
        "seq2seq_transformer": "decoder/0/cross/kv/kernel", "seq2seq_rnn": "decoder/query/kernel",
    }  # fmt: skip
    paths = leaf_paths(params)
    assert expected.get(case, "layers/0/recurrent/kernel") in paths
    assert spec in (FLOAT, TABLE) or "embed/embedding" in paths


@pytest.mark.parametrize("init", list(INITS))
@pytest.mark.parametrize("case", list(SMALL))
def test_a_model_uses_the_init_its_section_names(monkeypatch, case, init):
    calls = []
    real = INITS[init]
    monkeypatch.setitem(INITS, init, lambda *args: calls.append(init) or real(*args))
    small(case, init=init)
    assert calls


def test_an_unsuited_section_is_told_so():
    unsuited = (("mlp", TOKENS), ("cnn", TOKENS), ("resnet", TOKENS), ("vit", TOKENS), ("transformer", FLOAT))
    for case, spec in unsuited:
        with pytest.raises(ShapeError, match=f"model {case} expected .* use model.name"):
            make_model(SMALL[case][0](name=case), spec)


def assert_same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("case", ["mlp", "cnn", "resnet", "vit"])
def test_integers_are_numbers_to_a_model_without_tokens(case):
    section, options, _ = SMALL[case]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 1)).astype(np.uint8)
    spec = Spec({"inputs": jax.ShapeDtypeStruct((5, 5, 1), jnp.uint8)}, {"classes": 3})
    model = make_model(section(name=case, **options), spec)
    params, extras = model.init(KEY, {"inputs": pixels})
    for dtype in (jnp.float32, jnp.bfloat16):
        low = cast_floating(params, dtype)
        outputs = [
            model.apply(low, extras, {"inputs": x}, key=None, train=False)[0] for x in (pixels, pixels.astype(dtype))
        ]
        assert_same(*outputs)
        assert outputs[0].dtype == dtype
