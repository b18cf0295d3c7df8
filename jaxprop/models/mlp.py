"""Multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

import jax
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.models.layers import ACTIVATIONS, INITS, TAP_KINDS, BatchNorm, answers, as_numbers, dense
from jaxprop.models.remat import NONE, call
from jaxprop.types import Spec


class MlpLayer(nnx.Module):
    """dense, batch norm (if any), activation, dropout; `name` is its tap's."""

    def __init__(self, name: str, n_in: int, n_out: int, config: schema.Mlp | schema.Cnn, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        # batch norm subtracts the mean, so a bias before it would have no effect
        self.dense = dense(n_in, n_out, INITS[config.init], use_bias=not config.batch_norm, rngs=rngs)
        self.norm = BatchNorm(n_out) if config.batch_norm else None
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        x = self.dense(x)
        x = x if self.norm is None else self.norm(x, weight)
        return self.dropout(tap(self.activation(x), self.name, self.kind))


class Mlp(nnx.Module):
    """Multi-layer perceptron over flattened inputs.

    Args:
      config: the section `model` of the configuration.
      spec: numbers of any shape as `inputs`; `classes` or `targets` K.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a hidden layer.

    Raises:
      ShapeError: the data have an answer for every token.

    Example:
      >>> import jax.numpy as jnp
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> nnx.eval_shape(lambda: Mlp(schema.Mlp(name="mlp"), spec, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)
    """

    def __init__(self, config: schema.Mlp, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        self.remat = remat
        outputs = answers(spec, "mlp")
        sizes = [math.prod(spec.batch["inputs"].shape), *config.hidden]
        pairs = enumerate(itertools.pairwise(sizes))
        self.layers = nnx.List([MlpLayer(f"layers/{i}", a, b, config, rngs=rngs) for i, (a, b) in pairs])
        self.head = dense(sizes[-1], outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, ...]` to outputs `[B, K]`; `weight [B]` marks padding for batch norm."""
        x = as_numbers(x, self.head.kernel[...]).reshape(x.shape[0], -1)  # [B, N]
        for layer in self.layers:
            x = call(layer, self.remat, layer.name, x, weight)
        with jax.named_scope("head"):
            return tap(self.head(x), "head", "output")
