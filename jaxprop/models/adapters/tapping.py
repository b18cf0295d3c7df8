"""Taps on the output of every sub-module of a Flax model, while a step measures. Pure."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprop.core.taps import measuring, tap

ROOT = "output"
_NAME = "_tap_name"


class _Outputs:
    """Taps outputs, each array once: a module that hands on what a sub-module returned adds nothing."""

    def __init__(self) -> None:
        self._last: list[Any] = []

    def tap(self, output: Any, name: str) -> Any:
        leaves, treedef = jax.tree.flatten(output)
        if len(leaves) == len(self._last) and all(x is y for x, y in zip(leaves, self._last, strict=True)):
            return output
        kind = "output" if name == ROOT else ""
        names = [name] if len(leaves) == 1 else [f"{name}/{i}" for i in range(len(leaves))]
        self._last = [tap(leaf, label, kind) for leaf, label in zip(leaves, names, strict=True)]
        return jax.tree.unflatten(treedef, self._last)


@contextlib.contextmanager
def tapped_linen() -> Iterator[None]:
    """Taps what the `__call__` of every Linen module returns inside, by the module's path.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.taps import find
      >>> model = nn.Sequential([nn.Dense(3), nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> def apply(x):
      ...     with tapped_linen():
      ...         return model.apply(variables, x)
      >>> [tap.name for tap in find(apply, jnp.ones((1, 4)))[0]]
      ['layers_0', 'layers_1']
    """
    if not measuring():
        yield
        return
    outputs = _Outputs()

    def tapped(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        return outputs.tap(output, "/".join(context.module.path) or ROOT)

    with nn.intercept_methods(tapped):
        yield


@contextlib.contextmanager
def tapped_nnx(module: nnx.Module) -> Iterator[None]:
    """Taps what the `__call__` of every sub-module of an NNX module returns inside, by its path of attributes.

    For the time of the call each sub-module is of a subclass of its class: NNX has no hook on calls, and a method of
    the class itself would be changed for every model there is.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.taps import find
      >>> def apply(x):
      ...     model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
      ...     with tapped_nnx(model):
      ...         return model(x)
      >>> [tap.name for tap in find(apply, jnp.ones((1, 4)))[0]]
      ['layers/0', 'layers/1']
    """
    if not measuring():
        yield
        return
    outputs = _Outputs()
    changed = []
    try:
        for path, part in nnx.iter_modules(module):
            if not callable(part):
                continue
            setattr(part, _NAME, "/".join(map(str, path)) or ROOT)
            changed.append((part, type(part)))
            part.__class__ = _tapped_class(type(part), outputs)
        yield
    finally:
        for part, original in changed:
            part.__class__ = original
            delattr(part, _NAME)


def _tapped_class(original: type, outputs: _Outputs) -> type:
    call = original.__call__

    @functools.wraps(call)
    def tapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return outputs.tap(call(self, *args, **kwargs), getattr(self, _NAME, original.__name__))

    return type(original)(original.__name__, (original,), {"__call__": tapped, "__module__": original.__module__})
