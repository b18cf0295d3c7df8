"""Small models of pairs of texts, and a batch of several lengths, for tests of what reads and writes them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema import model as schema
from jaxprop.models import make_model
from jaxprop.types import Spec

V, S, T = 13, 8, 7
SPEC = Spec(
    {
        "inputs": jax.ShapeDtypeStruct((S,), jnp.int32),
        "input_mask": jax.ShapeDtypeStruct((S,), jnp.float32),
        "targets": jax.ShapeDtypeStruct((T,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((T,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((T,), jnp.float32),
    },
    {"vocabulary": V},
)
SMALL = {"layers": 2, "width": 16, "heads": 4}
SECTIONS = {
    "rope": schema.Seq2SeqTransformer(name="seq2seq_transformer", **SMALL),
    "learned": schema.Seq2SeqTransformer(name="seq2seq_transformer", positions="learned", **SMALL),
    "modern": schema.Seq2SeqTransformer(
        name="seq2seq_transformer", kv_heads=2, norm="rms", feed_forward="swiglu", tie_embeddings=False, **SMALL
    ),
    "gru": schema.Seq2SeqRnn(name="seq2seq_rnn", width=8, layers=2),
}
LENGTHS = ((8, 7), (1, 2), (5, 4))


def batch_of_pairs(seed=0):
    """Pairs of the lengths `LENGTHS`, padded."""
    rng = np.random.default_rng(seed)
    real = np.arange(S) < np.array([s for s, _ in LENGTHS])[:, None]
    held = np.arange(T) < np.array([t for _, t in LENGTHS])[:, None]
    size = len(LENGTHS)
    return {
        "inputs": np.where(real, rng.integers(1, V, (size, S)), 0).astype(np.int32),
        "input_mask": real.astype(np.float32),
        "targets": np.where(held, rng.integers(1, V, (size, T)), 0).astype(np.int32),
        "labels": np.where(held, rng.integers(1, V, (size, T)), 0).astype(np.int32),
        "mask": held.astype(np.float32),
    }


def made(kind, spec=SPEC):
    """A model with parameters so large that its outputs differ."""
    model = make_model(SECTIONS[kind], spec)
    params, extras = jax.jit(model.init)(jax.random.key(0), batch_of_pairs())
    large = 3 if kind == "gru" else 5
    return model, jax.tree.map(lambda x: large * x, params), extras


def alone(batch, row):
    """One example without its padding."""
    source, target = LENGTHS[row]
    cut = {"inputs": source, "input_mask": source, "targets": target, "labels": target, "mask": target}
    return {name: value[row : row + 1, : cut[name]] for name, value in batch.items()}
