"""The compiled train step: jitted, donated, measuring more in some calls than in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxprop.core.measurements import Measurements
from jaxprop.core.precision import Policy, Scaling, needs_scaling, promoting
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import UsageError, one_of
from jaxprop.health.signals.settings import DETAILS, Signals
from jaxprop.health.signals.settings import settings as settings_of
from jaxprop.parallel import sharding
from jaxprop.train.objective import Cast, LossFn, as_objective
from jaxprop.train.step import Recipe, variants
from jaxprop.types import Batch, Objective, Schedule, TrainState


class TrainStep:
    """A compiled train step, `(state, batch) -> (state, Measurements)`; made by `make_train_step`.

    The state is donated: after the call the old one is gone. Arguments are positional, since jit does not
    donate keyword arguments. What is measured rarely is a second program, compiled when it is first due.

    Args:
      variant: `detail -> (state, batch) -> (state, Measurements)`, what to compile.
      settings: when a step measures how much; None for nothing but the scalars.
      flushes: whether the step computes in float16, so that there is something to flush.
      steps_per_call: steps that one call takes.
      jit_options: of `jax.jit`.
    """

    def __init__(
        self,
        variant: Callable[[str], Callable],
        settings: Signals | None,
        flushes: bool,
        steps_per_call: int,
        jit_options: dict[str, Any],
    ):
        self._compiled = {detail: jax.jit(variant(detail), donate_argnums=0, **jit_options) for detail in DETAILS}
        self._settings, self._flushes, self._steps_per_call = settings, flushes, steps_per_call
        self._calls = 0
        self._layers: tuple[str, ...] | None = None

    def __call__(
        self, state: TrainState, batch: Batch, detail: str | None = None, /
    ) -> tuple[TrainState, Measurements]:
        """Takes a step.

        Args:
          state, batch: the state, which is donated, and the batch.
          detail: how much to measure: `"lean"` (loss, gradient norm), `"rows"` (every layer too), `"full"` (everything)
            or `"flush"` (what float16 would flush, too); by default what the settings say for this object's n-th call.

        Raises:
          UsageError: for an unknown detail.
        """
        state, measurements = self._compiled[self._detail(detail)](state, batch)
        self._calls += 1
        if measurements.layout.layers or self._settings is None:
            self._layers = measurements.layout.layers
        return state, measurements

    def _detail(self, detail: str | None) -> str:
        if self._settings is None:
            return "lean"
        if detail is None:
            first = self._calls * self._steps_per_call + 1
            detail = self._settings.detail(first, first + self._steps_per_call - 1)
        if detail not in self._compiled:
            raise UsageError(one_of(detail, DETAILS, "detail"))
        return "full" if detail == "flush" and not self._flushes else detail

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the L layers, in the order of `m.layers`; known once a step has measured them."""
        if self._layers is None:
            raise UsageError("layer_names is known after the step's first call; call step(state, batch) first")
        return self._layers

    def lower(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Any:
        """Traces the step without running it; `.compile()` gives its memory and cost analysis."""
        return self._compiled[self._detail(detail)].lower(state, batch)


def make_train_step(
    loss_fn: LossFn | Objective,
    tx: optax.GradientTransformation,
    precision: str | Policy = "float32",
    accumulate: int = 1,
    steps_per_call: int = 1,
    health: bool | Signals = True,
    *,
    ema_decay: float | None = None,
    schedule: Schedule | None = None,
    clip: float | optax.GradientTransformation | None = None,
    scaling: Scaling | None = None,
    cast: Cast = None,
    stateful: bool = False,
    mesh: Mesh | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """Returns one pure, jitted, donated train step.

        L = sum_i w_i l_i / sum_i w_i,   g = dL/dparams,   params' = params + tx(g)

    over all examples i of the batch. Where L or g is not finite, params, extras, opt_state and EMA stay as they were.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, the batch's mean and numbers to report;
        `aux["weight"]`, if there, is the sum of weights of that mean. Or `jaxprop.loss_from(model, loss)`.
      tx: any optax transformation.
      precision: `"float32"`, `"bfloat16"`, `"float16"` (with a dynamic loss scale), or a `Policy`.
      accumulate: microbatches K that the batch `[B, ...]` is split into, B a multiple of K.
      steps_per_call: with S > 1 the batch is `[S, B, ...]` and one call takes S steps.
      health: measure every layer in each step, and activations and more in each tenth; or `Signals` to say when.
      ema_decay: d of a moving average of the parameters, `ema <- d ema + (1 - d) params`.
      schedule: learning rate by count of updates, for `m.learning_rate` only; `tx` already applies it.
      clip: what `tx` clips first, for `m.clipped_norm` only: the bound of `clip_by_global_norm`, or a transformation.
      scaling: constants of the dynamic loss scale.
      cast: keys of the batch that a plain loss function computes with, cast to the compute dtype; no other is rounded.
      stateful: the plain loss function is `(params, extras, batch, key) -> (loss, (extras, aux))`.
      mesh: from `jaxprop.make_mesh`; the batch is split over its devices.
      compiler_options: passed to XLA.

    Returns:
      The step, `(state, batch) -> (state, Measurements)`.

    Raises:
      UsageError: for an unknown precision or a count below 1.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> loss_fn = lambda params, batch, key: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
      >>> state = jaxprop.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), key=jax.random.key(0))
      >>> state, m = step(state, {"x": jnp.eye(2), "y": jnp.ones(2)})
      >>> round(float(m.loss), 3), step.layer_names
      (1.0, ('w',))

    Reference: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
    """
    check_counts(accumulate=accumulate, steps_per_call=steps_per_call)
    objective = as_objective(loss_fn, cast, stateful=stateful)
    update = promoting(optax.with_extra_args_support(tx).update)
    policy, scaling, settings = policy_of(precision), scaling or Scaling(), settings_of(health)
    recipe = Recipe(objective, update, policy, accumulate, settings, ema_decay, schedule, scaling, clip)
    options = jit_options(mesh, steps_per_call, compiler_options)
    return TrainStep(variants(recipe, steps_per_call), settings, needs_scaling(policy), steps_per_call, options)


def check_counts(**counts: int) -> None:
    """Raises UsageError for a count below 1."""
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"expected {name} of at least 1, got {value}")


def jit_options(mesh: Mesh | None, steps_per_call: int, compiler_options: dict[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments of `jax.jit`: with a mesh, shardings pinned on both sides so that nothing recompiles."""
    options: dict[str, Any] = {"compiler_options": compiler_options}
    if mesh is not None:
        whole = sharding.replicated(mesh)
        options |= {
            "in_shardings": (whole, sharding.batch_sharding(mesh, steps_per_call)),
            "out_shardings": (whole, whole),
        }
    return options
