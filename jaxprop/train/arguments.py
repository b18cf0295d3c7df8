"""Checks of what a user hands to the train step: one sentence, with the argument and the fix. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxprop.core import trees
from jaxprop.core.precision import Scaling
from jaxprop.errors import ShapeError, UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.parallel.mesh import DATA_AXIS
from jaxprop.types import Batch, PyTree, TrainState


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1)


def _is_callable(value: Any) -> bool:
    return value is None or callable(value)


def _is_clip(value: Any) -> bool:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return float(value) > 0
    return value is None or isinstance(value, optax.GradientTransformation)


# argument -> what it has to be, and in words
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tx": (
        lambda tx: isinstance(tx, optax.GradientTransformation),
        "an optax transformation, such as optax.adamw(1e-3)",
    ),
    "accumulate": (_is_count, "a whole number of microbatches, at least 1"),
    "steps_per_call": (_is_count, "a whole number of steps, at least 1"),
    "health": (lambda x: isinstance(x, bool | Signals), "True, False or jaxprop.health.Signals(...)"),
    "ema_decay": (_is_share, "a number above 0 and below 1, or None"),
    "schedule": (_is_callable, "a function of the number of updates, or None; tx applies a constant rate itself"),
    "gradient": (_is_callable, "a function such as jax.value_and_grad, or None"),
    "clip": (_is_clip, "the bound of clip_by_global_norm, a transformation, or None"),
    "scaling": (
        lambda x: x is None or isinstance(x, Scaling),
        "jaxprop.core.precision.Scaling(...), or None",
    ),
    "mesh": (lambda x: x is None or isinstance(x, Mesh), "a mesh, from jaxprop.make_mesh or jax.make_mesh, or None"),
    "skip_nonfinite": (lambda x: isinstance(x, bool), "True or False"),
    "stateful": (lambda x: isinstance(x, bool), "True or False"),
}


def check_arguments(**given: Any) -> None:
    """Raises UsageError for the first argument that is not what it has to be.

    Example:
      >>> check_arguments(accumulate=0)
      Traceback (most recent call last):
      jaxprop.errors.UsageError: expected accumulate to be a whole number of microbatches, at least 1; got 0
    """
    for name, value in given.items():
        fits, words = RULES[name]
        if not fits(value):
            raise UsageError(f"expected {name} to be {words}; got {value!r}")


def uneven(batch: Batch, mesh: Mesh | None, steps_per_call: int = 1) -> str | None:
    """Returns the sentence for a batch that cannot be split over the devices of a mesh, or None.

    Args:
      batch: any pytree of arrays.
      mesh: over whose axis `data` the batch is split; None for one device.
      steps_per_call: above 1 the batch has a leading axis of steps.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> uneven({"x": jnp.ones((5, 2))}, make_mesh(1)) is None
      True
    """
    devices, axis = 1 if mesh is None else mesh.shape[DATA_AXIS], int(steps_per_call > 1)
    for path, leaf in zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        shape = jnp.shape(leaf)
        if len(shape) > axis and shape[axis] % devices:
            size, fits = shape[axis], math.gcd(shape[axis], devices)
            return (
                f"a batch of {size} cannot be divided over the {devices} devices of the mesh ({path or 'it'} has the "
                f"shape {shape}); use {-(-size // devices) * devices}, filled up with examples of weight 0 where the "
                f"loss takes weights, or mesh=jaxprop.make_mesh({fits})"
            )
    return None


def mistake(
    tx: optax.GradientTransformation,
    trained: Callable[[PyTree], PyTree],
    state: Any,
    batch: Batch,
    mesh: Mesh | None = None,
    steps_per_call: int = 1,
) -> str | None:
    """Returns the sentence for a call of the step that cannot work, or None where the reason lies elsewhere.

    Called once a call has failed, so that one that works is not slowed down.

    Args:
      tx: of the step.
      trained: takes the trained parameters out of all.
      state, batch: what the step was called with.
      mesh, steps_per_call: of the step.
    """
    if not isinstance(state, TrainState):
        return (
            f"expected a train state as the first argument of the step, got {type(state).__name__}; make one with "
            "state = step.init(params, key=jax.random.key(0))"
        )
    for path, leaf in zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        if not _is_array(leaf):
            return (
                f"expected arrays or numbers in the batch, got {_described(leaf)} at {path}; leave out what the loss "
                "does not compute with, and turn text into numbers before the step"
            )
    if (told := uneven(batch, mesh, steps_per_call)) is not None:
        return told
    expected, got = jax.eval_shape(tx.init, trained(state.params)), state.opt_state
    if str(jax.tree.structure(got)) != str(jax.tree.structure(expected)):
        return (
            "the state's opt_state is not that of the step's optimizer; make the state with "
            "step.init(params, key=key), or give the step the optimizer that made it"
        )
    return None


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array | bool | int | float | complex):
        return True
    return isinstance(leaf, np.ndarray | np.generic) and (
        leaf.dtype.kind in "biufc" or jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def _described(leaf: Any) -> str:
    return f"an array of {leaf.dtype}" if isinstance(leaf, np.ndarray) else f"{type(leaf).__name__} {leaf!r:.40}"


def check_batch_stack(batches: Batch, most: int) -> int:
    """Returns how many batches are stacked on the leading axis, 1 to `most`.

    Raises:
      ShapeError: the arrays do not share a leading axis, or it is longer.
    """
    found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(found) != 1 or not found <= {(count,) for count in range(1, most + 1)}:
        raise ShapeError(
            f"with steps_per_call={most}, expected {most} batches stacked on a leading axis, got arrays with leading "
            f"axes {sorted(found)}; use jnp.stack on {most} batches"
        )
    return found.pop()[0]
