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
    return build(section(name=name, dropout=0.2, **options | changes), spec), batch_of(spec)


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


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("case", list(SMALL))
def test_gradients_agree_with_central_differences_and_forward_mode(x64, case, activation):
    model, batch = small(case, activation=activation)
    params, extras = jax.jit(model.init)(jax.random.key(1), batch)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), cast64(params))
    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
    check(lambda params: mean_loss(params, extras, batch, KEY, policy("float64"))[0], params)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mlp", {"batch_norm": False}),
        ("cnn", {"batch_norm": False, "convs_per_block": 2, "kernel": 2}),
        ("transformer", {"positions": "learned", "tie_embeddings": False}),
        ("transformer", {"layers": 2}),
    ],
)
def test_gradients_of_variants(x64, case, changes):
    model, batch = small(case, **changes)
    params, extras = jax.jit(model.init)(jax.random.key(1), batch)
    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
    check(lambda params: mean_loss(params, extras, batch, KEY, policy("float64"))[0], cast64(params))


def cast64(params):
    return cast_floating(params, jnp.float64)
