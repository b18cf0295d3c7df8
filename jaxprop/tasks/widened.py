"""An objective of batches as they are kept, whose inputs become floats within the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprop.types import Objective, PyTree


def widened(objective: Objective, widen: Callable[[Any], Any]) -> Objective:
    """Returns an objective that first makes of a batch what it stands for.

    Args:
      objective: of batches with floats.
      widen: `batch -> batch`, such as `jaxprop.Source.stored.widen`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.precision import policy
      >>> from jaxprop.train.objective import as_objective
      >>> halves = widened(as_objective(lambda params, batch, key: batch["x"].sum()), lambda b: {"x": b["x"] / 2})
      >>> halves.mean_loss({}, {}, {"x": jnp.uint8([1, 2])}, None, policy("float32"))[0].item()
      1.5
    """

    def mean_loss(params: PyTree, extras: PyTree, batch: Any, key: Any, policy: Any) -> Any:
        return objective.mean_loss(params, extras, widen(batch), key, policy)

    def sums(params: PyTree, extras: PyTree, batch: Any, policy: Any) -> Any:
        return objective.sums(params, extras, widen(batch), policy)

    return objective._replace(mean_loss=mean_loss, sums=sums)
