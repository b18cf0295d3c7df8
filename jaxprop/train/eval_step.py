"""The eval step: what adds up over a batch, jitted. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxprop.core.compiler import fast_options
from jaxprop.core.forms import forms_for
from jaxprop.core.placing import placing
from jaxprop.core.precision import Policy
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.metrics.totals import add_up, finished
from jaxprop.parallel import sharding
from jaxprop.parallel.places import places_of
from jaxprop.parallel.rules import Rule
from jaxprop.parallel.sharding import misplaced
from jaxprop.train.arguments import is_deleted
from jaxprop.train.objective import Cast, LossFn, as_objective
from jaxprop.types import Metric, Objective, PyTree, Sums


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """A compiled evaluation of one batch, `(params, extras, batch) -> sums`; made by `make_eval_step`.

    Args:
      compiled: the jitted function.
      metrics: by name, how the sums are finished.
      mesh: the devices, or None for a single one.
    """

    compiled: Callable[[PyTree, PyTree, PyTree], Sums]
    metrics: Mapping[str, Metric]
    mesh: Mesh | None = None

    def __call__(self, params: PyTree, extras: PyTree, batch: PyTree) -> Sums:
        """Returns what each metric measured: `(sum, count)`, another pytree that adds up, or `Rows`."""
        try:
            return self.compiled(params, extras, batch)
        except Exception as error:
            told = misplaced(batch, self.mesh) if self.mesh is not None else None
            if is_deleted(error, (params, extras)):
                told = (
                    "the parameters belong to a state that was given to a later call of the step, which reuses its "
                    "memory; evaluate with those of the state that the call returned"
                )
            if told is None or isinstance(error, JaxpropError):
                raise
            raise UsageError(told) from error

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
    rules: Sequence[Rule] = (),
    whole: bool = False,
) -> EvalStep:
    """Returns a jitted evaluation of one batch, `(params, extras, batch) -> {name: (sum, count)}`.

    Sums and counts add up over batches, and rows are gathered, so figures of a padded, masked split are exact.

    Args:
      loss_fn: as in `make_train_step`. A `Model` is applied with `train=False`. A plain function is called with
        `key=None`, the sign to leave dropout out and to use the moving averages of a stateful one, whose new extras are
        dropped; its mean counts `aux["weight"]`, or else the examples of the batch, which is one where its arrays share
        no first axis.
      precision: as in `make_train_step`.
      cast, stateful: of a plain loss function, as in `as_objective`.
      mesh, rules: as in `make_train_step`.
      whole: whether each device computes the whole batch, so that their number does not change a bit.

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
    policy, places = policy_of(precision), places_of(mesh, rules)

    def eval_step(params: PyTree, extras: PyTree, batch: PyTree) -> Sums:
        if whole and mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding.replicated(mesh))
        with placing(places), forms_for(None if mesh is None else mesh.devices.flat[0].platform):
            return objective.sums(params, extras, batch, policy)

    if mesh is None:
        return EvalStep(jax.jit(eval_step, compiler_options=fast_options()), objective.metrics)
    everywhere = sharding.replicated(mesh)
    # Parameters stay as they lie: a step with `state_sharding` splits them.
    shardings = (None, None, sharding.batch_sharding(mesh))
    # replicated results: sums over all devices, and every device's rows in the batch's order
    compiled = jax.jit(eval_step, in_shardings=shardings, out_shardings=everywhere, compiler_options=fast_options(mesh))
    return EvalStep(compiled, objective.metrics, mesh)
