"""The eval step: sums over a batch, jitted. Pure."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jaxprop.core.precision import Policy
from jaxprop.core.precision import policy as policy_of
from jaxprop.parallel import sharding
from jaxprop.train.objective import LossFn, as_objective
from jaxprop.types import Batch, Objective, PyTree, Sums


def make_eval_step(
    loss_fn: LossFn | Objective, precision: str | Policy = "float32", *, mesh: Mesh | None = None
) -> Callable[[PyTree, PyTree, Batch], Sums]:
    """Returns a jitted evaluation of one batch, `(params, extras, batch) -> {name: (sum, count)}`.

    Sums and counts add up over batches, so the mean over a padded, masked split is exact.

    Args:
      loss_fn: as in `make_train_step`. A `Model` is applied with `train=False`. A plain function is called with
        `key=None`, the sign to leave dropout out, and its mean counts `aux["weight"]`, or once a batch.
      precision: as in `make_train_step`.
      mesh: as in `make_train_step`.

    Returns:
      The step; `"loss"` is always among the names.

    Example:
      >>> import jaxprop, jax.numpy as jnp
      >>> evaluate = jaxprop.make_eval_step(lambda params, batch, key: jnp.mean(batch["x"] * params["w"]))
      >>> total, count = evaluate({"w": jnp.float32(2)}, {}, {"x": jnp.ones(3)})["loss"]
      >>> (total / count).item()
      2.0
    """
    objective = as_objective(loss_fn)
    policy = policy_of(precision)

    def eval_step(params: PyTree, extras: PyTree, batch: Batch) -> Sums:
        return objective.sums(params, extras, batch, policy)

    if mesh is None:
        return jax.jit(eval_step)
    whole = sharding.replicated(mesh)
    return jax.jit(eval_step, in_shardings=(whole, whole, sharding.batch_sharding(mesh)), out_shardings=whole)
