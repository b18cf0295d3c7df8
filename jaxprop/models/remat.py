"""Rematerialization: activations of a repeated unit that are computed again in the backward pass. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

# What the forward pass keeps of each unit besides its inputs; the names are those of `run.remat`.
POLICIES: dict[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
NONE = "none"  # keep what differentiation keeps


def checkpointed(function: Callable[..., Any], remat: str, *, in_scan: bool = False) -> Callable[..., Any]:
    """Returns a function whose activations are computed again in the backward pass, as far as a policy says.

    Args:
      function: pure; what it closes over is kept.
      remat: a name in `POLICIES`, or `"none"`, which returns the function itself.
      in_scan: it is the body of a `jax.lax.scan`, where no barrier is needed to keep XLA from undoing this.

    Returns:
      A function of the same arguments, with the same value and gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> float(jax.grad(checkpointed(jnp.sin, "full"))(0.0))
      1.0

    Reference:
      Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. https://arxiv.org/abs/1604.06174
    """
    if remat == NONE:
        return function
    return jax.checkpoint(function, policy=POLICIES[remat], prevent_cse=not in_scan)


def call(unit: Any, remat: str, scope: str, *args: Any, function: Callable[..., Any] | None = None) -> Any:
    """Calls an NNX module as one unit of rematerialization, with its operations in a named scope.

    What the call changes in the module, such as batch statistics and the counts of random streams, is changed in the
    module that is given, as without rematerialization.

    Args:
      unit: the module.
      remat: a name in `POLICIES`, or `"none"`.
      scope: name of the layer, which profiles and `jaxprop info --memory` show.
      *args: arrays, pytrees of them, or None.
      function: `(unit, *args) -> outputs`, where it is not the module's own call.

    Returns:
      The outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> call(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), "full", "head", jnp.ones((1, 3))).shape
      (1, 2)
    """
    apply = function if function is not None else _call
    with jax.named_scope(scope):
        if remat == NONE:
            return apply(unit, *args)
        parts: Any = nnx.split(unit, nnx.Param, ...)
        graph, params, rest = parts

        # A function of its own for each call: jax keeps a trace by the function, and taps differ from call to call.
        def pure(params: Any, rest: Any, args: Any) -> tuple[Any, Any]:
            merged = nnx.merge(graph, params, rest)
            outputs = apply(merged, *args)
            return outputs, nnx.state(merged, nnx.Not(nnx.Param))

        outputs, changed = checkpointed(pure, remat)(params, rest, args)
        nnx.update(unit, changed)
        return outputs


def _call(unit: Any, *args: Any) -> Any:
    return unit(*args)
