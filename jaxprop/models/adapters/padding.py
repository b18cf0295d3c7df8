"""Keeps padding out of the batch statistics of Flax models. Pure."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.core.examples import row_weights
from jaxprop.types import Batch


@contextlib.contextmanager
def unpadded_linen(batch: Batch) -> Iterator[None]:
    """Has every `nn.BatchNorm` called inside leave the batch's examples of weight 0 out of its statistics.

    A call that is given a mask keeps it.

    Args:
      batch: whose `weight` and `mask` tell what is padding; nothing changes where it has neither.

    Example:
      >>> norm, x = nn.BatchNorm(use_running_average=False, momentum=0.0), jnp.array([[1.0], [3.0], [50.0]])
      >>> variables = norm.init(jax.random.key(0), x)
      >>> with unpadded_linen({"weight": jnp.array([1.0, 1.0, 0.0])}):
      ...     _, new = norm.apply(variables, x, mutable=["batch_stats"])
      >>> new["batch_stats"]["mean"].tolist()
      [2.0]
    """
    weight = row_weights(batch)
    if weight is None:
        yield
        return

    def masked(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            kwargs = _with_mask(weight, args, kwargs)
        return call(*args, **kwargs)

    with nn.intercept_methods(masked):
        yield


@contextlib.contextmanager
def unpadded_nnx(module: nnx.Module, batch: Batch) -> Iterator[None]:
    """Has every `nnx.BatchNorm` of a module leave the batch's examples of weight 0 out of its statistics.

    A call that is given a mask keeps it. While the context is open, these layers are of a subclass of their class.

    Args:
      module: any NNX module.
      batch: whose `weight` and `mask` tell what is padding; nothing changes where it has neither.

    Example:
      >>> norm, x = nnx.BatchNorm(1, momentum=0.0, rngs=nnx.Rngs(0)), jnp.array([[1.0], [3.0], [50.0]])
      >>> with unpadded_nnx(norm, {"weight": jnp.array([1.0, 1.0, 0.0])}):
      ...     _ = norm(x)
      >>> norm.mean[...].tolist()
      [2.0]
    """
    weight = row_weights(batch)
    found = [] if weight is None else [part for _, part in nnx.iter_modules(module) if isinstance(part, nnx.BatchNorm)]
    classes = [type(part) for part in found]
    try:
        for part in found:
            part.__class__ = _masked_class(type(part), weight)
        yield
    finally:
        for part, original in zip(found, classes, strict=True):
            part.__class__ = original


def _masked_class(original: type, weight: Any) -> type:
    call = original.__call__

    @functools.wraps(call)
    def masked(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **_with_mask(weight, args, kwargs))

    return type(original)(original.__name__, (original,), {"__call__": masked, "__module__": original.__module__})


def _with_mask(weight: jax.Array, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    x: Any = args[0] if args else kwargs["x"]
    if kwargs.get("mask") is not None or jnp.ndim(x) < 2 or jnp.shape(x)[0] != weight.shape[0]:
        return kwargs
    counts = weight != 0
    # A batch of nothing but padding would have the mean 0 / 0.
    return {**kwargs, "mask": (counts | ~jnp.any(counts)).reshape(-1, *[1] * (jnp.ndim(x) - 1))}
