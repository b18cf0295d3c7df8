"""The train state before the first step. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxprop.core import trees
from jaxprop.core.precision import Policy, Scaling, cast_floating, init_loss_scale, needs_scaling, promoting
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import UsageError
from jaxprop.health.signals import curvature
from jaxprop.health.signals.guard import init_history
from jaxprop.health.signals.settings import Signals
from jaxprop.parallel.placement import replicate
from jaxprop.types import PyTree, TrainState


def init_state(
    params: PyTree,
    tx: optax.GradientTransformation,
    *,
    key: jax.Array,
    extras: PyTree = None,
    precision: str | Policy = "float32",
    ema_decay: float | None = None,
    scaling: Scaling | None = None,
    mesh: Mesh | None = None,
    health: bool | Signals = True,
) -> TrainState:
    """Returns the state before the first step. Arrays are copied, so donation never takes the caller's.

    Args:
      params: any pytree of floating-point arrays; cast to the policy's parameter dtype.
      tx: the optax transformation given to `make_train_step`.
      key: PRNG key of the run, `jax.random.key(seed)`.
      extras: what the model carries besides parameters; none by default.
      precision, ema_decay, scaling, mesh, health: as given to `make_train_step`.

    Returns:
      The train state.

    Raises:
      UsageError: if a leaf of `params` is not a floating-point array.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> jaxprop.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), key=jax.random.key(0)).step.item()
      0
    """
    policy = policy_of(precision)
    params = jax.tree.map(jnp.asarray, params)
    _check_floating(params)
    params = _fresh(cast_floating(params, policy.param))
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        extras=_fresh({} if extras is None else extras),
        opt_state=_fresh(promoting(tx.init)(params)),
        key=jax.random.clone(key),
        loss_scale=init_loss_scale(scaling or Scaling()) if needs_scaling(policy) else (),
        health=_init_health(params, key, health),
        ema=_fresh(params) if ema_decay is not None else (),
    )
    return state if mesh is None else replicate(state, mesh)


def _init_health(params: PyTree, key: jax.Array, health: bool | Signals) -> dict[str, PyTree]:
    # The same for every response, so that a run can be continued with another one.
    state = {
        "skips": jnp.int32(0),
        "lr_scale": jnp.float32(1),
        "grad_limit": jnp.float32(jnp.inf),
        "rate_limit": jnp.float32(jnp.inf),
        "rate_peak": jnp.float32(0),
        "spikes": init_history(),
    }
    if isinstance(health, Signals) and health.curvature:
        state["direction"] = curvature.init_direction(params, jax.random.fold_in(key, 2**32 - 1))
    return state


def _check_floating(params: PyTree) -> None:
    for path, leaf in zip(trees.leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UsageError(
                f"expected floating-point parameters, got {path} of dtype {leaf.dtype}; "
                "pass what is not trained as extras, or close over it"
            )


def _fresh(tree: PyTree) -> PyTree:
    # Copies: the state is donated, and the same buffer twice in it, or the caller's, must not be. An explicit
    # dtype also drops weak types, which would recompile the step at its second call.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)
