"""The train state before the first step. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import Mesh

from jaxprop.core import trees
from jaxprop.core.precision import (
    Policy,
    Scaling,
    cast_floating,
    init_loss_scale,
    masters,
    needs_scaling,
    promoting,
)
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import UsageError
from jaxprop.health.signals import curvature
from jaxprop.health.signals.guard import init_health
from jaxprop.health.signals.settings import Signals
from jaxprop.parallel.placement import replicate
from jaxprop.train.arguments import check_arguments
from jaxprop.train.averages import Swa, averaged, averagings, held, kept
from jaxprop.train.trainable import Trainable, merge, split, trainable_mask
from jaxprop.types import Average, HealthState, PyTree, TrainState


def init_state(
    params: PyTree,
    tx: optax.GradientTransformation,
    *,
    key: jax.Array,
    extras: PyTree = None,
    precision: str | Policy = "float32",
    ema_decay: float | Sequence[float] | None = None,
    swa: Swa | None = None,
    scaling: Scaling | None = None,
    mesh: Mesh | None = None,
    health: bool | Signals = True,
    trainable: Trainable = None,
) -> TrainState:
    """Returns the state before the first step: the long form of `step.init`, which needs nothing said twice.

    Arrays are copied, so donation never takes the caller's.

    Args:
      params: any pytree of arrays; those of floating point are cast to the policy's parameter dtype, integers and
        booleans are carried along untrained.
      tx: the optax transformation given to `make_train_step`.
      key: PRNG key of the run, `jax.random.key(seed)`.
      extras: what the model carries besides parameters; none by default.
      precision, ema_decay, swa, scaling, mesh, health, trainable: as given to `make_train_step`.

    Returns:
      The train state.

    Raises:
      UsageError: a leaf of `params` is no array, `params` holds batch statistics or random state, or `key` is no PRNG
        key.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> jaxprop.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), key=jax.random.key(0)).step.item()
      0
    """
    check_arguments(tx=tx, health=health, ema_decay=ema_decay, swa=swa, scaling=scaling, mesh=mesh)
    policy = policy_of(precision)
    _check_arrays(params)
    _check_kinds(params, trainable)
    params = _fresh(cast_floating(jax.tree.map(_as_array, params), policy.param))
    extras = _fresh({} if extras is None else extras)
    key = _prng_key(key)
    trained = masters(split(params, trainable_mask(trainable, params)), policy)
    direction: PyTree = ()
    if isinstance(health, Signals) and health.curvature:
        direction = curvature.init_direction(trained, jax.random.fold_in(key, 2**32 - 1))
    # Each array of the state costs a microsecond a call, so there are none that the step has no use for.
    guarded = isinstance(health, Signals) and health.guarded
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        extras=extras,
        opt_state=_fresh(promoting(tx.init)(trained)),
        key=jax.random.clone(key),
        loss_scale=init_loss_scale(scaling or Scaling()) if needs_scaling(policy) else (),
        health=init_health(direction) if guarded else HealthState(jnp.int32(0), direction=direction),
        ema=held([_fresh(Average(averaged(trained), averaged(extras))) for _ in averagings(ema_decay, swa)]),
    )
    return state if mesh is None else replicate(state, mesh)


def eval_params(state: TrainState, trainable: Trainable) -> PyTree:
    """Returns the parameters to evaluate with; see `TrainStep.eval_params`."""
    mask = trainable_mask(trainable, state.params)
    if kept(state.ema):
        leaves = jax.tree.leaves(state.params)
        mask = [keep and jnp.issubdtype(x.dtype, jnp.floating) for keep, x in zip(mask, leaves, strict=True)]
        return _merge_average(kept(state.ema)[0].params, state.params, mask)
    free = optax.contrib.ScheduleFreeState
    found = [x for x in jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, free)) if isinstance(x, free)]
    if not found:
        return state.params
    trained = split(state.params, mask)
    for one in found:
        trained = _free(one, trained)
    return merge(trained, state.params, mask)


def _free(state: optax.contrib.ScheduleFreeState, trained: PyTree) -> PyTree:
    """The trained parameters with those that a schedule-free optimizer moves, of a group or all, as it evaluates them.

    An optimizer in `optax.partition` holds nothing of the parameters of others.
    """
    held = jax.tree.leaves(state.z, is_leaf=_is_masked)
    mine = [not _is_masked(z) for z in held]
    leaves, structure = jax.tree.flatten(trained)
    assert len(held) == len(leaves), "the average has the structure of the parameters"
    own = state._replace(z=list(compress(held, mine)))
    new = iter(optax.contrib.schedule_free_eval_params(own, list(compress(leaves, mine))))
    return jax.tree.unflatten(structure, [next(new) if keep else leaf for keep, leaf in zip(mine, leaves, strict=True)])


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def eval_extras(state: TrainState) -> PyTree:
    """Returns the extras to evaluate with; see `TrainStep.eval_extras`."""
    if not kept(state.ema):
        return state.extras
    floats = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(state.extras)]
    return _merge_average(kept(state.ema)[0].extras, state.extras, floats)


def _merge_average(average: PyTree, tree: PyTree, mask: list[bool]) -> PyTree:
    kept = split(tree, mask)
    return merge(jax.tree.map(lambda new, old: new.astype(old.dtype), average, kept), tree, mask)


def _check_arrays(params: PyTree) -> None:
    for path, leaf in zip(trees.leaf_paths(params), jax.tree.leaves(params), strict=True):
        try:
            jnp.asarray(leaf)
        except (TypeError, ValueError):
            raise UsageError(
                f"expected arrays as parameters, got {type(leaf).__name__} at {path}; of an Equinox module pass "
                "eqx.filter(module, eqx.is_array), and close over the rest"
            ) from None


def _check_kinds(params: PyTree, trainable: Trainable) -> None:
    """Raises UsageError for what Flax keeps beside parameters: trained, it would decay, and dropout never change."""
    for path, node in jax.tree.flatten_with_path(params, is_leaf=_is_state)[0]:
        if _is_state(node):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(
                f"expected parameters, got nnx.{type(node).__name__} at {where}; make the model with jaxprop.from_nnx, "
                "or split it by nnx.split(model, nnx.Param, ...) and give the rest as extras to a loss with "
                "stateful=True"
            )
    if not isinstance(params, Mapping) or not {"params", "batch_stats"} <= set(params):
        return
    paths, mask = trees.leaf_paths(params), trainable_mask(trainable, params)
    if any(keep and path.startswith("batch_stats/") for path, keep in zip(paths, mask, strict=True)):
        raise UsageError(
            "expected parameters, got batch_stats beside them; make the model with jaxprop.from_linen, or give "
            'variables["params"] as params and {"batch_stats": variables["batch_stats"]} as extras to a loss with '
            "stateful=True"
        )


def _is_state(node: Any) -> bool:
    # By name, so that nothing of Flax has to be imported.
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(node).__mro__}
    return not kinds.isdisjoint({("flax", "BatchStat"), ("flax", "RngState")})


def _as_array(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _prng_key(key: Any) -> jax.Array:
    if not hasattr(key, "dtype"):
        raise UsageError(f"expected key to be a PRNG key, got {key!r}; use jax.random.key({key!r})")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype != jnp.uint32:
        raise UsageError(f"expected key to be a PRNG key, got an array of {key.dtype}; use jax.random.key(seed)")
    return jax.random.wrap_key_data(key)


def _fresh(tree: PyTree) -> PyTree:
    # Copies: the state is donated, and the same buffer twice in it, or the caller's, must not be. An explicit
    # dtype also drops weak types, which would recompile the step at its second call.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)
