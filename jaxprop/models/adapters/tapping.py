"""Taps on the output of every sub-module of a Flax or Equinox model, while a step measures. Pure."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprop.core.overrides import before_rounding
from jaxprop.core.taps import measuring, tap
from jaxprop.models.adapters.calls import ROOT, intercepted_nnx


class _Outputs:
    """Taps outputs, each array once: a module that hands on what a sub-module returned adds nothing."""

    def __init__(self) -> None:
        self._last: list[Any] = []

    def tap(self, output: Any, name: str, opaque: tuple[type, ...] = ()) -> Any:
        """Returns an output whose arrays are tapped, except those inside a node of an opaque type."""
        leaves, treedef = jax.tree.flatten(output, is_leaf=lambda node: isinstance(node, opaque))
        places = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, opaque)]
        arrays = [leaves[i] for i in places]
        # One that an override has rounded at the module's edge is still the one that was tapped.
        whole = [before_rounding(array) for array in arrays]
        if len(arrays) == len(self._last) and all(x is y for x, y in zip(whole, self._last, strict=True)):
            return output
        kind = "output" if name == ROOT else ""
        names = [name] if len(arrays) == 1 else [f"{name}/{i}" for i in range(len(arrays))]
        tapped = [tap(array, label, kind) for array, label in zip(arrays, names, strict=True)]
        self._last = [before_rounding(array) for array in tapped]
        for i, array in zip(places, tapped, strict=True):
            leaves[i] = array
        return jax.tree.unflatten(treedef, leaves)


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

    While the context is open, the class of each sub-module is a subclass of its own: NNX has no hook on calls, and a
    change to the class itself would reach every other model.

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

    def tapped(call: Callable[..., Any], path: str, args: Any, kwargs: Any) -> Any:
        return outputs.tap(call(*args, **kwargs), path)

    with intercepted_nnx(module, "_tap_name", tapped):
        yield


_equinox_outputs: contextvars.ContextVar[_Outputs | None] = contextvars.ContextVar("equinox_outputs", default=None)


@contextlib.contextmanager
def tapped_equinox(module: Any) -> Iterator[Any]:
    """Yields a copy of an Equinox module that taps what the `__call__` of every sub-module returns, by its path.

    Each sub-module of the copy is of a subclass of its class, one for each path: a subclass keeps its name through
    `jax.vmap`, `jax.lax.scan` and `eqx.partition`, which rebuild modules. Sub-modules in static fields stay as they
    are, and so do a `State` or a module that a call returns. Under `jax.vmap` each example is a call of its own, so
    that `abs_max` is a mean over the examples.

    Example:
      >>> import equinox as eqx
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.taps import find
      >>> model = eqx.nn.MLP(4, 2, width_size=3, depth=1, key=jax.random.key(0))
      >>> def apply(x):
      ...     with tapped_equinox(model) as tapped:
      ...         return tapped(x)
      >>> [tap.name for tap in find(apply, jnp.ones(4))[0]]
      ['layers/0', 'layers/1']
    """
    if not measuring():
        yield module
        return
    import equinox

    token = _equinox_outputs.set(_Outputs())
    try:
        yield _tapped_copy(module, (), equinox.Module, (equinox.Module, equinox.nn.State))
    finally:
        _equinox_outputs.reset(token)


def _tapped_copy(module: Any, path: tuple[Any, ...], base: type, opaque: tuple[type, ...]) -> Any:
    def inside(node: Any) -> bool:
        return node is not module and isinstance(node, base)

    leaves, treedef = jax.tree_util.tree_flatten_with_path(module, is_leaf=inside)
    parts = [_tapped_copy(leaf, (*path, *at), base, opaque) if inside(leaf) else leaf for at, leaf in leaves]
    copy = jax.tree.unflatten(treedef, parts)
    if callable(copy):
        original: Any = type(module)
        name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)
        # The copy is ours alone; a module's own __setattr__ refuses any change.
        object.__setattr__(copy, "__class__", _tapped_equinox_class(original, name or ROOT, opaque))
    return copy


@functools.cache
def _tapped_equinox_class(original: Any, name: str, opaque: tuple[type, ...]) -> type:
    """One class for a name, since jax keeps every class that it knows as a pytree."""
    call = original.__call__

    @functools.wraps(call)
    def tapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = call(self, *args, **kwargs)
        outputs = _equinox_outputs.get()
        return output if outputs is None else outputs.tap(output, name, opaque)

    return type(original)(original.__name__, (original,), {"__call__": tapped, "__module__": original.__module__})
