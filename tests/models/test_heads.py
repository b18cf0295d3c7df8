"""The last layer of every built-in model with an answer a token: whole, and in stretches of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import policy
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics import accuracy
from jaxprop.models import make_model
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec

RNG = np.random.default_rng(0)
SHAPES = {"inputs": (7,), "targets": (5,)}
SMALL = {"layers": 1, "width": 8, "heads": 2}
MODELS = {
    "transformer, tied": schema.Transformer(name="transformer", **SMALL),
    "transformer": schema.Transformer(name="transformer", tie_embeddings=False, **SMALL),
    "seq2seq_transformer, tied": schema.Seq2SeqTransformer(name="seq2seq_transformer", **SMALL),
    "seq2seq_transformer": schema.Seq2SeqTransformer(name="seq2seq_transformer", tie_embeddings=False, **SMALL),
    "rnn": schema.Rnn(name="rnn", width=8, layers=1),
    "seq2seq_rnn": schema.Seq2SeqRnn(name="seq2seq_rnn", width=8),
}


def case(name):
    pairs = name.startswith("seq2seq")
    shapes = SHAPES if pairs else {"inputs": (7,)}
    spec = Spec({key: jax.ShapeDtypeStruct(shape, jnp.int32) for key, shape in shapes.items()}, {"vocabulary": 11})
    batch = {key: RNG.integers(0, 11, (2, *shape)).astype(np.int32) for key, shape in shapes.items()}
    labels = RNG.integers(0, 11, (2, *shapes["targets" if pairs else "inputs"]))
    batch |= {"labels": labels.astype(np.int32), "mask": (RNG.random(labels.shape) > 0.2).astype(np.float32)}
    model = make_model(MODELS[name], spec)
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    return model, jax.tree.map(lambda x: 3 * x, params), extras, batch


@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_in_stretches_are_those_of_whole_logits(name):
    model, params, extras, batch = case(name)
    found = []
    for chunks in (3, 1):
        objective = loss_from(model, softmax_cross_entropy, {"accuracy": accuracy}, vocabulary_chunks=chunks)

        def loss(params, objective=objective):
            return objective.mean_loss(params, extras, batch, jax.random.key(0), policy("float32"))

        jaxpr = str(jax.make_jaxpr(loss)(params))
        assert ("f32[2,5,11]" if "targets" in batch else "f32[2,7,11]") in jaxpr or chunks > 1
        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), *found)


@pytest.mark.parametrize(("match", "expected"), [("head", "float32"), ("norm", "bfloat16")])
def test_stretches_compute_in_the_dtype_of_the_head(match, expected):
    model, params, extras, batch = case("transformer")
    computes = policy("bfloat16", overrides=[(match, "float32")])
    losses, products = [], []
    for chunks in (3, 1):
        objective = loss_from(model, softmax_cross_entropy, vocabulary_chunks=chunks)

        def loss(params, objective=objective):
            return objective.mean_loss(params, extras, batch, jax.random.key(0), computes)[0]

        losses.append(float(jax.jit(loss)(params)))
        short = "bf16" if expected == "bfloat16" else "f32"
        products.append(f"{short}[6,11] = dot_general" in str(jax.make_jaxpr(loss)(params)))
    assert products[0]  # of 3 tokens of 2 examples
    np.testing.assert_allclose(*losses, rtol=1e-5 if expected == "float32" else 1e-2)
