"""What every built-in model keeps: gradients, determinism, dtypes, padding, one compile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config import schema
from jaxprop.losses import loss_from, softmax_cross_entropy
from jaxprop.models import MODELS, build
from jaxprop.models.layers import ACTIVATIONS, INITS
from jaxprop.precision import policy
from jaxprop.trees import cast_floating, leaf_paths
from jaxprop.types import Spec
from tests.gradients import check

FLOAT = Spec(jax.ShapeDtypeStruct((5, 5, 1), jnp.float32), 3)
TOKENS = Spec(jax.ShapeDtypeStruct((5,), jnp.int32), 7)
SMALL = {
    "mlp": (schema.Mlp, {"hidden": (6, 5), "batch_norm": True}, FLOAT),
    "cnn": (schema.Cnn, {"channels": (2, 3), "hidden": (4,)}, FLOAT),
    "elman": (schema.Rnn, {"cell": "elman", "width": 4, "layers": 2}, TOKENS),
    "gru": (schema.Rnn, {"cell": "gru", "width": 4}, TOKENS),
    "lstm": (schema.Rnn, {"cell": "lstm", "width": 4}, TOKENS),
    "transformer": (schema.Transformer, {"layers": 1, "width": 8, "heads": 2, "ff_multiple": 2}, TOKENS),
}
KEY = jax.random.key(3)


def small(case, **changes):
    section, options, spec = SMALL[case]
    name = case if case in MODELS else "rnn"
    return build(section(name=name, **{"dropout": 0.2} | options | changes), spec), batch_of(spec)


def batch_of(spec, size=4, seed=0):
    rng = np.random.default_rng(seed)
    weight = np.ones(size, np.float32)
    weight[-1] = 0
    if spec is TOKENS:
        tokens = rng.integers(0, spec.outputs, (size, 6)).astype(np.int32)
        mask = rng.integers(0, 2, (size, 5)).astype(np.float32)
        return {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": mask, "weight": weight}
    inputs = rng.normal(size=(size, *spec.inputs.shape)).astype(np.float32)
    return {"inputs": inputs, "labels": rng.integers(0, spec.outputs, size).astype(np.int32), "weight": weight}


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
    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
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
    ],
)
def test_gradients_with_dropout_and_other_structure(x64, case, changes):
    loss, params = loss_of(case, dropout=0.3, **changes)
    check(lambda params, _: loss(params), params)
