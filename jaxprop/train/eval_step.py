"""The eval step: what adds up over a batch, jitted. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxprop.core.precision import Policy
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.metrics.totals import add_up, finished
from jaxprop.parallel import sharding
from jaxprop.train.arguments import uneven
from jaxprop.train.objective import Cast, LossFn, as_objective
from jaxprop.types import Metric, Objective, PyTree, Sums


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """A compiled evaluation of one batch, `(params, extras, batch) -> sums`; made by `make_eval_step`.

    Args:
      compiled: the jitted function.
      metrics: by name, how the sums are finished.
      mesh: whose devices the batch is split over.
    """

    compiled: Callable[[PyTree, PyTree, PyTree], Sums]
    metrics: Mapping[str, Metric]
    mesh: Mesh | None = None

    def __call__(self, params: PyTree, extras: PyTree, batch: PyTree) -> Sums:
        """Returns what each metric measured: `(sum, count)`, another pytree that adds up, or `Rows`."""
        try:
            return self.compiled(params, extras, batch)
        except ValueError as error:
            told = None if isinstance(error, JaxpropError) else uneven(batch, self.mesh)
            if told is None:
                raise
            raise ShapeError(told) from error

    def finish(self, sums: Iterable[Sums]) -> dict[str, float]:
        """Returns the figures of a whole split, exact whatever its batches and their padding.

        Args:
          sums: of every batch, in the split's order.

        Returns:
          `{name: number}`, the loss first.
        """
        totals: dict[str, Any] = {}
        for batch in sums:
            add_up(totals, batch)
        return finished(totals, self.metrics)


def make_eval_step(
    loss_fn: LossFn | Objective,
    precision: str | Policy = "float32",
    *,
    cast: Cast = None,
    stateful: bool = False,
    mesh: Mesh | None = None,
) -> EvalStep:
    """Returns a jitted evaluation of one batch, `(params, extras, batch) -> {name: (sum, count)}`.

    Sums and counts add up over batches, and rows are gathered, so figures of a padded, masked split are exact.

    Args:
      loss_fn: as in `make_train_step`. A `Model` is applied with `train=False`. A plain function is called with
        `key=None`, the sign to leave dropout out and to use the moving averages of a stateful one, whose new extras are
        dropped; its mean counts `aux["weight"]`, or once a batch.
      precision: as in `make_train_step`.
      cast, stateful: of a plain loss function, as in `as_objective`.
      mesh: as in `make_train_step`.

    Returns:
      The step; `"loss"` is always among the names.

    Example:
      >>> import jaxprop, jax.numpy as jnp
      >>> evaluate = jaxprop.make_eval_step(lambda params, batch, key: jnp.mean(batch["x"] * params["w"]))
      >>> batches = [{"x": jnp.ones(3)}, {"x": jnp.zeros(3)}]
      >>> evaluate.finish(evaluate({"w": jnp.float32(2)}, {}, batch) for batch in batches)
      {'loss': 1.0}
    """
    objective = as_objective(loss_fn, cast, stateful=stateful)
    policy = policy_of(precision)

    def eval_step(params: PyTree, extras: PyTree, batch: PyTree) -> Sums:
        return objective.sums(params, extras, batch, policy)

    if mesh is None:
        return EvalStep(jax.jit(eval_step), objective.metrics)
    whole = sharding.replicated(mesh)
    # Parameters stay as they lie: a step with `state_sharding` splits them.
    shardings = (None, None, sharding.batch_sharding(mesh))
    # replicated results: sums over all devices, and every device's rows in the batch's order
    return EvalStep(jax.jit(eval_step, in_shardings=shardings, out_shardings=whole), objective.metrics, mesh)
