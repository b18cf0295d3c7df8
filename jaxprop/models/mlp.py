"""Multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.errors import ShapeError
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import ACTIVATIONS, INITS, TAP_KINDS, BatchNorm, Embed, answers, as_numbers, dense
from jaxprop.models.remat import NONE
from jaxprop.models.stack import apply_layers
from jaxprop.types import Spec


class MlpLayer(nnx.Module):
    """dense, batch norm (if any), activation, dropout; `name` is its tap's."""

    def __init__(self, name: str, n_in: int, n_out: int, config: schema.Mlp | schema.Cnn, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        # batch norm subtracts the mean, so a bias before it would have no effect
        self.dense = dense(n_in, n_out, INITS[config.init], use_bias=not config.batch_norm, rngs=rngs)
        self.norm = BatchNorm(n_out) if config.batch_norm else None
        self.dropout = Dropout(config.dropout, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        x = self.dense(x)
        x = x if self.norm is None else self.norm(x, weight)
        return self.dropout(tap(self.activation(x), self.name, self.kind))


class Categories(nnx.Module):
    """Columns of categories as numbers, side by side: one-hot, or looked up in a learned table for each column.

    Args:
      sizes: number of categories of each column.
      embedding: `"one-hot"`, or the number of features of a table.
      rngs: random streams.

    Example:
      >>> columns = Categories((2, 3), "one-hot", rngs=nnx.Rngs(0))
      >>> columns(jnp.array([[1, 0]]), jnp.dtype("float32")).tolist()
      [[0.0, 1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(self, sizes: Sequence[int], embedding: int | Literal["one-hot"], *, rngs: nnx.Rngs):
        self.sizes = tuple(sizes)
        if embedding == "one-hot":
            self.tables, self.features = None, sum(sizes)
        else:
            # standard normal, as large as standardized numbers
            self.tables = nnx.List([Embed(size, embedding, stddev=1.0, rngs=rngs) for size in sizes])
            self.features = embedding * len(sizes)

    def __call__(self, categories: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
        """Maps `categories [B, C]` to numbers `[B, features]`; one that is outside its column's range gives NaN."""
        if categories is None or categories.shape[1:] != (len(self.sizes),):
            got = "none" if categories is None else str(list(categories.shape))
            raise ShapeError(f"expected batch['categories'] [B, {len(self.sizes)}], one index a column, got {got}")
        columns = categories.astype(jnp.int32).T
        if self.tables is not None:
            found = [table(column) for table, column in zip(self.tables, columns, strict=True)]
        else:
            found = [_one_hot(column, size, dtype) for size, column in zip(self.sizes, columns, strict=True)]
        return jnp.concatenate(found, 1)


def _one_hot(column: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    known = (column >= 0) & (column < size)
    return jnp.where(known[:, None], jax.nn.one_hot(column, size, dtype=dtype), jnp.nan)


class Mlp(nnx.Module):
    """Multi-layer perceptron over flattened inputs, and over categories beside them.

    Args:
      config: the section `model` of the configuration.
      spec: numbers of any shape as `inputs`; `classes` or `targets` K; where the data have columns of `categories`, how
        many categories each of them has.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a hidden layer.

    Raises:
      ShapeError: the data have an answer for every token; in a call, if it is handed no categories where it reads some.

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
        numbers, columns = math.prod(spec.batch["inputs"].shape), spec.sizes.get("categories")
        self.categories = None if columns is None else Categories(columns, config.embedding, rngs=rngs)
        sizes = [numbers + (0 if self.categories is None else self.categories.features), *config.hidden]
        pairs = enumerate(itertools.pairwise(sizes))
        self.layers = nnx.List([MlpLayer(f"layers/{i}", a, b, config, rngs=rngs) for i, (a, b) in pairs])
        self.head = dense(sizes[-1], outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None = None, categories: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, ...]` and `categories [B, C]` to outputs `[B, K]`; `weight [B]` marks padding for batch norm."""
        x = as_numbers(x, self.head.kernel[...])
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))  # [B, N]
        if self.categories is not None:
            x = jnp.concatenate([x, self.categories(categories, x.dtype)], 1)
        x = apply_layers(self.layers, self.remat, x, weight)
        with jax.named_scope("head"):
            return tap(self.head(x), "head", "output")
