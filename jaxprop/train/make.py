"""From a loss and an optimizer to the compiled train step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from jaxprop.core.precision import Policy, Scaling, needs_scaling
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.health.signals.settings import settings as settings_of
from jaxprop.parallel.mesh import make_mesh
from jaxprop.parallel.places import places_of
from jaxprop.parallel.rules import Rule
from jaxprop.parallel.sharding import StateSharding
from jaxprop.train.arguments import check_arguments, check_placement
from jaxprop.train.averages import Swa, averagings
from jaxprop.train.compiled import TrainStep
from jaxprop.train.estimators import check_fits, resolved
from jaxprop.train.objective import Cast, LossFn, as_objective
from jaxprop.train.step import Recipe
from jaxprop.train.trainable import Trainable
from jaxprop.types import Objective, Schedule


def make_train_step(
    loss_fn: LossFn | Objective,
    tx: optax.GradientTransformation,
    precision: str | Policy = "float32",
    accumulate: int = 1,
    steps_per_call: int = 1,
    health: bool | Signals = True,
    *,
    ema_decay: float | Sequence[float] | None = None,
    swa: Swa | None = None,
    schedule: Schedule | None = None,
    clip: float | optax.GradientTransformation | None = None,
    scaling: Scaling | None = None,
    cast: Cast = None,
    stateful: bool = False,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] = (),
    state_sharding: StateSharding = None,
    deterministic: str | None = None,
    offload_optimizer: bool = False,
    trainable: Trainable = None,
    gradient: str | Callable[..., Any] | None = None,
    skip_nonfinite: bool = True,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """Returns one pure, jitted, donated train step.

        L = sum_i w_i l_i / sum_i w_i,   g = dL/dparams,   params' = params + tx(g)

    over all examples i of the batch. Where L or g is not finite, params, extras, opt_state and EMA stay as they were.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, the batch's mean and numbers to report;
        `aux["weight"]`, if there, is the sum of weights of that mean. Or `jaxprop.loss_from(model, loss)`.
      tx: any optax transformation.
      precision: `"float32"`, `"tf32"`, `"bfloat16"`, `"float16"` (with a dynamic loss scale), or a `Policy`, as
        `jaxprop.policy("bfloat16", params="bfloat16", overrides=[("norm|head", "float32")])` makes one.
      accumulate: microbatches K that the batch `[B, ...]` is split into, B a multiple of K.
      steps_per_call: with S > 1 the batch is `[S, B, ...]` and one call takes S steps.
      health: measure the gradient norm of every layer in each step, and all signals in each fiftieth; or `Signals` to
        say when.
      ema_decay: d of a moving average of parameters and batch statistics, `ema <- d ema + (1 - d) params`, that warms
        up: d is at most `(1 + t) / (10 + t)` after t updates. `step.eval_params(state)` returns it. A list of decays
        keeps an average for each, and `step.eval_params(state, average="ema_0.99")` returns one of them.
      swa: the mean of the parameters from some update on, `jaxprop.Swa(start, every)`, as a further average.
      schedule: learning rate by count of updates, for `m.learning_rate` only; `tx` already applies it.
      clip: what `tx` clips first, for `m.clipped_norm` only: the bound of `clip_by_global_norm`, or a transformation.
      scaling: constants of the dynamic loss scale.
      cast: keys of the batch that a plain loss function computes with, cast to the compute dtype; no other is rounded.
      stateful: the plain loss function is `(params, extras, batch, key) -> (loss, (extras, aux))`.
      mesh: from `jaxprop.make_mesh`; the batch is split over its axes `data` and `fsdp`.
      rules: where parameters lie on the mesh, each a `jaxprop.Rule(match, spec)`. One that no rule matches is split
        over `fsdp`, and over `tensor` where it is known of the layer; what of optimizer and moving averages belongs to
        a parameter lies as that does.
      state_sharding: in place of rules, a function of the path of an array in the state, such as
        `opt_state/0/mu/dense/kernel`, and the array, that returns its `PartitionSpec`; or a tree of shardings or specs
        in the structure of the state or of its top.
      deterministic: `"across_devices"` for the same bits on 2, 4 and 8 devices of a kind, and on 1 for the built-in
        models: the gradient is the mean of those of 8 parts of the batch, as with `accumulate=8`, added up in one
        order. It costs speed, and memory for 8 gradients.
      offload_optimizer: keep the optimizer's state in the host's memory between steps, which frees that of the devices
        and costs the time to copy it there and back in each step.
      trainable: which parameters are trained: a regular expression that the path of a leaf has to match as a whole, a
        function of the path, or a tree of booleans; default: all, but for weights that adapters of `jaxprop.lora` lie
        beside. The others are carried along: they have no gradient, no row among the layers and no state in the
        optimizer.
      gradient: in place of `jax.value_and_grad`: an estimator without a backward pass, from `jaxprop.estimator` or by
        its name; or a function of your own, for example to clip the gradient of each example. It is given
        `loss(params, batch, key) -> (loss, aux)` and returns a function of the same arguments that returns
        `((loss, aux), grads)`, as `jax.value_and_grad(loss, has_aux=True)` does. Taps are not measured then; in float16
        the loss it is given holds the loss scale.
      skip_nonfinite: leave the state as it is where loss or gradient is not finite; False hands such gradients to `tx`,
        as `optax.zero_nans` and `optax.apply_if_finite` want them.
      compiler_options: passed to XLA in place of those that make steps faster, which `jaxprop doctor` tells.

    Returns:
      The step, `(state, batch) -> (state, Measurements)`.

    Raises:
      UsageError: for an unknown precision, a count below 1, or arguments that do not go together.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> loss_fn = lambda params, batch, key: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
      >>> state = step.init({"w": jnp.zeros(2)}, key=jax.random.key(0))
      >>> state, m = step(state, {"x": jnp.eye(2), "y": jnp.ones(2)})
      >>> round(float(m.loss), 3), step.layer_names
      (1.0, ('w',))

    Reference: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
    """
    differentiate = resolved(gradient)
    check_arguments(
        tx=tx, accumulate=accumulate, steps_per_call=steps_per_call, health=health, ema_decay=ema_decay, swa=swa,
        schedule=schedule, clip=clip, scaling=scaling, mesh=mesh, gradient=differentiate, skip_nonfinite=skip_nonfinite,
        stateful=stateful, deterministic=deterministic, offload_optimizer=offload_optimizer,
    )  # fmt: skip
    check_placement(mesh, rules, state_sharding)
    mesh = make_mesh(1) if (deterministic or offload_optimizer) and mesh is None else mesh
    policy = policy_of(precision)
    if needs_scaling(policy) and not skip_nonfinite:
        raise UsageError(
            "float16 finds its loss scale by skipping steps that overflow, so skip_nonfinite has to stay True; use "
            "precision='bfloat16' to pass gradients that are not finite to tx"
        )
    recipe = Recipe(
        objective=as_objective(loss_fn, cast, stateful=stateful),
        tx=tx,
        policy=policy,
        accumulate=accumulate,
        signals=settings_of(health),
        averagings=averagings(ema_decay, swa),
        schedule=schedule,
        scaling=scaling or Scaling(),
        clip=clip,
        trainable=trainable,
        gradient=differentiate,
        skip_nonfinite=skip_nonfinite,
        over=mesh if deterministic else None,
        offloaded=offload_optimizer,
        platform=None if mesh is None else mesh.devices.flat[0].platform,
        places=None if state_sharding is not None else places_of(mesh, rules),
    )
    check_fits(differentiate, policy, recipe.signals)
    return TrainStep(recipe, steps_per_call, mesh, state_sharding, rules, compiler_options)
