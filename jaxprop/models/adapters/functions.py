"""A `Model` from two functions. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.models.adapters.shared import expect_callable, expect_pair, keep_dtypes
from jaxprop.types import Batch, Model, PyTree


def from_functions(init: Callable[..., Any], apply: Callable[..., Any]) -> Model:
    """Makes a `Model` of two plain functions and checks what they return.

    Args:
      init: `(key, batch) -> (params, extras)`; return `{}` where there are no extras.
      apply: `(params, extras, batch, *, key, train) -> (outputs, extras)`. Extras keep their
        structure and shapes; they are cast back to the dtypes they came in.

    Returns:
      A `Model`.

    Raises:
      JaxpropError: an argument is not callable, or a function returns something else.
      ShapeError: `apply` returns extras of another structure or other shapes.

    Example:
      >>> def init(key, batch):
      ...     return {"kernel": jax.random.normal(key, (batch["inputs"].shape[1], 2))}, {}
      >>> def apply(params, extras, batch, *, key, train):
      ...     return batch["inputs"] @ params["kernel"], extras
      >>> model = from_functions(init, apply)
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> outputs, extras = model.apply(params, extras, batch, key=None, train=False)
      >>> outputs.shape
      (4, 2)
    """
    expect_callable(init, "init", "(key, batch) -> (params, extras)")
    expect_callable(apply, "apply", "(params, extras, batch, *, key, train) -> (outputs, extras)")

    def checked_init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, extras = expect_pair(init(key, batch), "init", "(params, extras)", "return params, {}")
        return jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, extras)

    def checked_apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        returned = apply(params, extras, batch, key=key, train=train)
        outputs, new = expect_pair(returned, "apply", "(outputs, extras)", "return outputs, extras")
        return outputs, keep_dtypes(new, extras)

    return Model(checked_init, checked_apply)
