"""Checks of what a user hands to the train step: one sentence, with the argument and the fix. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from jaxprop.parallel.mesh import refuse_local
from jaxprop.parallel.sharding import misplaced
from jaxprop.train.averages import Swa
from jaxprop.types import Batch, PyTree, TrainState


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_share(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1


def _is_decay(value: Any) -> bool:
    several = isinstance(value, Sequence) and all(map(_is_share, value)) and len(set(value)) == len(value)
    return value is None or _is_share(value) or several


def _is_swa(value: Any) -> bool:
    return value is None or (isinstance(value, Swa) and _is_count(value.start + 1) and _is_count(value.every))


def _is_callable(value: Any) -> bool:
    return value is None or callable(value)


def _is_clip(value: Any) -> bool:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return float(value) > 0
    if isinstance(value, jax.Array):  # of a lane, whose value is not known when the step is made
        return value.ndim == 0
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
    "ema_decay": (_is_decay, "a number above 0 and below 1, a list of different ones, or None"),
    "swa": (_is_swa, "jaxprop.Swa(start, every), numbers of updates, or None"),
    "schedule": (_is_callable, "a function of the number of updates, or None; tx applies a constant rate itself"),
    "gradient": (_is_callable, "the name of an estimator, a function such as jax.value_and_grad, or None"),
    "clip": (_is_clip, "the bound of clip_by_global_norm, a transformation, or None"),
    "scaling": (
        lambda x: x is None or isinstance(x, Scaling),
        "jaxprop.core.precision.Scaling(...), or None",
    ),
    "mesh": (lambda x: x is None or isinstance(x, Mesh), "a mesh, from jaxprop.make_mesh or jax.make_mesh, or None"),
    "deterministic": (lambda x: x in (None, "across_devices"), "'across_devices', or None"),
    "offload_optimizer": (lambda x: isinstance(x, bool), "True or False"),
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
            if isinstance(value, optax.MultiSteps):
                words += "; take accumulate= in place of optax.MultiSteps, or give its gradient_transformation()"
            raise UsageError(f"expected {name} to be {words}; got {value!r}")


def check_placement(mesh: Mesh | None, rules: Any, state_sharding: Any) -> None:
    """Raises UsageError where a state cannot lie as asked: without a mesh, by two of rules and sharding, or locally.

    Example:
      >>> check_placement(None, (), jax.P())
      Traceback (most recent call last):
      jaxprop.errors.UsageError: state_sharding says how the state lies on a mesh; give mesh=jaxprop.make_mesh() besides
    """
    if state_sharding is not None and mesh is None:
        raise UsageError("state_sharding says how the state lies on a mesh; give mesh=jaxprop.make_mesh() besides")
    if rules and (mesh is None or state_sharding is not None):
        raise UsageError("rules say how the state lies on a mesh; give mesh=jaxprop.make_mesh(), and no state_sharding")
    refuse_local(mesh)


def mistake(
    error: Exception,
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
      error: what the call raised.
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
    if isinstance(error, TypeError) and "forward-mode autodiff (jvp) to a custom_vjp function" in str(error):
        return (
            "the step differentiates forwards, as the estimator forward does, and a function in the loss has a "
            "custom_vjp, a rule for the backward pass alone; use the estimator spsa, or give the function a custom_jvp"
        )
    if type(error).__name__ == "TraceContextError":
        return (
            "loss_fn changes a Flax module, or variables of one, that it closes over; make the model with "
            "jaxprop.from_nnx, or give the variables as extras= to step.init and with stateful=True"
        )
    if is_deleted(error, state):
        return (
            "the state was given to an earlier call of a step, which reuses its memory; go on with the state that the "
            "call returned, state, m = step(state, batch), or keep a copy, jax.tree.map(jnp.copy, state)"
        )
    for path, leaf in zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        if not _is_array(leaf):
            return (
                f"expected arrays or numbers in the batch, got {_described(leaf)} at {path}; leave out what the loss "
                "does not compute with, and turn text into numbers before the step"
            )
    told = misplaced(batch, mesh, steps_per_call) if mesh is not None else None
    if told is not None:
        return told
    expected, got = jax.eval_shape(tx.init, trained(state.params)), state.opt_state
    if str(jax.tree.structure(got)) != str(jax.tree.structure(expected)):
        return (
            "the state's opt_state is not that of the step's optimizer; make the state with "
            "step.init(params, key=key), or give the step the optimizer that made it"
        )
    return None


def is_deleted(error: Exception, tree: PyTree) -> bool:
    """Returns whether a call failed because an array it was given is gone, as those of a donated state are.

    Example:
      >>> is_deleted(RuntimeError("Array has been deleted"), {"w": jnp.ones(2)})
      False
    """
    # A call that fails for another reason, such as memory, may have taken the arrays as well.
    gone = [leaf.is_deleted() for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return any(gone) and "deleted" in str(error)


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
