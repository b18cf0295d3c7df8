"""What the tests of models of audio share: small models, and batches of recordings of several lengths."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import policy
from jaxprop.losses.ctc import ctc
from jaxprop.models import make_model
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec

RATE, VOCABULARY = 1000, 5
SPEC = Spec(
    {
        "inputs": jax.ShapeDtypeStruct((400,), jnp.float32),
        "input_lengths": jax.ShapeDtypeStruct((), jnp.int32),
        "labels": jax.ShapeDtypeStruct((3,), jnp.int32),
        "label_lengths": jax.ShapeDtypeStruct((), jnp.int32),
    },
    {"vocabulary": VOCABULARY, "sample_rate": RATE},
)
SHORT = {"mels": 4, "window_ms": 32.0, "hop_ms": 16.0}
SMALL = {
    "conv_bilstm": (schema.ConvBilstm, {"channels": (4, 3), "kernel": 3, "width": 3, "layers": 2}),
    "conformer": (schema.Conformer, {"layers": 1, "width": 8, "heads": 2, "ff_multiple": 2, "kernel": 5}),
}
KEY = jax.random.key(3)


def model_of(name, spec=SPEC, **changes):
    section, options = SMALL[name]
    return make_model(section(name=name, **SHORT | options | changes), spec)


def batch_of(seed=0, size=4, length=400):
    rng = np.random.default_rng(seed)
    lengths = np.array([length, length * 3 // 4, length // 2, length // 3])[:size].astype(np.int32)
    inputs = rng.normal(size=(size, length)).astype(np.float32)
    inputs = np.where(np.arange(length) < lengths[:, None], inputs, 0)
    labels, counts = rng.integers(1, VOCABULARY, (size, 3)).astype(np.int32), np.array([3, 2, 1, 1], np.int32)[:size]
    return {
        "inputs": inputs, "input_lengths": lengths, "labels": labels, "label_lengths": counts,
        "weight": np.ones(size, np.float32),
    }  # fmt: skip


def drawn(model, batch, dtype=jnp.float32):
    """Parameters of plausible size in which no bias is zero and no gradient vanishes."""
    params, extras = jax.eval_shape(model.init, KEY, batch)
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5, dtype)

    return jax.tree.map(draw, params), jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), extras)


def loss_of(name, **changes):
    """The mean loss of a small model in float64 as a function of its parameters, and those parameters."""
    model, batch = model_of(name, dropout=0.0, **changes), batch_of()
    params, extras = drawn(model, batch, jnp.float64)
    mean_loss = loss_from(model, ctc, cast=()).mean_loss
    return lambda params, _: mean_loss(params, extras, batch, KEY, policy("float64"))[0], params


def outputs_of(model, params, extras, batch):
    return jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])(batch)
