"""A loss of the user's own code. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxprop.code.load import Code
from jaxprop.core.examples import row_weights
from jaxprop.errors import ShapeError
from jaxprop.types import Batch, Loss


def own_loss(code: Code, sizes: Mapping[str, int]) -> Loss:
    """Makes a `Loss` of a function `(outputs, batch) -> per_example [B]`, or `(per_example [B], weight [B])`.

    Without a weight of its own, an example counts by `batch["weight"]` and by what of `batch["mask"]` is not 0; the
    examples that fill up the last batch of an epoch have the weight 0.

    Args:
      code: the function; or a class or function that returns it.
      sizes: `classes`, `targets` and `vocabulary` of the data, for a signature that has them.

    Returns:
      A `Loss`.

    Raises:
      ConfigError: it is none, or raises an error.
      ShapeError: when traced, if it returns something else.
    """
    function, name = code.of_outputs(**sizes), code.section.name

    def loss(outputs: Any, batch: Batch) -> tuple[Any, Any]:
        returned = function(outputs, batch)
        if isinstance(returned, tuple):
            return returned  # whose shapes are checked where they are used
        if jnp.ndim(returned) != 1:
            raise ShapeError(
                f"expected {name} to return the loss of each example, [B], got shape {jnp.shape(returned)}; leave out "
                "the mean over the batch, and average over everything else"
            )
        weight = row_weights(batch)
        return returned, jnp.ones_like(returned) if weight is None else weight

    return loss
