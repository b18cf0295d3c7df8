"""Dtypes at the edges of the modules that an override of the precision names, in every framework. Pure.

Inside `jaxprop.core.overrides.computing` what goes into such a module is cast to the module's dtype, and what comes out
to that of the module around it. Calls are intercepted as those of taps are, so that the modules need not know.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Iterator
from typing import Any, cast

import flax.linen as nn
import jax
from flax import nnx

from jaxprop.core.overrides import METHODS, Dtypes, called, crossing, dtypes_of, handed_on
from jaxprop.types import PyTree

OPAQUE = (nnx.Object, nnx.Variable, nn.Module)


@contextlib.contextmanager
def computing_nnx(module: nnx.Module, params: PyTree) -> Iterator[None]:
    """Casts at the edges of the sub-modules of an NNX module whose dtype is not that of the module around them.

    While the context is open, the class of each of these is a subclass of its own, as for taps.

    Args:
      module: with its parameters in it.
      params: these, by path.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.overrides import cast_params, computing
      >>> from jaxprop.core.precision import policy
      >>> model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
      >>> mixed = policy("bfloat16", overrides=[("layers/0", "float32")])
      >>> graph, params = nnx.split(model)
      >>> params = cast_params(nnx.to_pure_dict(params), mixed)
      >>> model = nnx.merge(graph, params)
      >>> with computing(mixed), computing_nnx(model, params):
      ...     model(jnp.ones((1, 4), jnp.bfloat16)).dtype.name
      'bfloat16'
    """
    dtypes = dtypes_of(params)
    if dtypes is None:
        yield
        return
    changed = []
    try:
        parts = {"/".join(map(str, at)): part for at, part in nnx.iter_modules(module) if callable(part)}
        for path, part in parts.items():
            called(path)
            edge = dtypes.boundary(path, _around(path, parts))
            if edge is not None:
                changed.append((part, type(part)))
                part.__class__ = _casting_class(type(part), *edge, OPAQUE)
        yield
    finally:
        for part, original in changed:
            part.__class__ = original


def _around(path: str, modules: Container[str]) -> str:
    """The nearest module around a path; `""` for the model itself."""
    while path:
        path = path.rpartition("/")[0]
        if path in modules:
            break
    return path


@functools.cache
def _casting_class(original: Any, inner: Any, outer: Any, opaque: tuple[type, ...]) -> type:
    """One class for a pair of dtypes, since what is traced is kept by the class."""
    methods = {name: getattr(original, name) for name in METHODS if callable(getattr(original, name, None))}
    casting = {name: crossing(method, inner, outer, opaque) for name, method in methods.items()}
    return type(original)(original.__name__, (original,), {**casting, "__module__": original.__module__})


@contextlib.contextmanager
def computing_linen(params: PyTree) -> Iterator[None]:
    """Casts at the edges of Linen modules whose dtype is not that of the module around them.

    Args:
      params: the collection `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.overrides import cast_params, computing
      >>> from jaxprop.core.precision import policy
      >>> model, mixed = nn.Sequential([nn.Dense(3), nn.Dense(2)]), policy("bfloat16", overrides=[("_0", "float32")])
      >>> params = cast_params(model.init(jax.random.key(0), jnp.ones((1, 4)))["params"], mixed)
      >>> with computing(mixed), computing_linen(params):
      ...     model.apply({"params": params}, jnp.ones((1, 4), jnp.bfloat16)).dtype.name
      'bfloat16'
    """
    dtypes = dtypes_of(params)
    if dtypes is None:
        yield
        return

    def casting(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        called(path)
        around = "/".join(context.module.path[:-1])
        edge = dtypes.boundary(path, around) if context.method_name in METHODS else None
        if edge is None:
            return call(*args, **kwargs)
        return crossing(lambda _, *args, **kwargs: call(*args, **kwargs), *edge, OPAQUE)(None, *args, **kwargs)

    with nn.intercept_methods(casting):
        yield


@contextlib.contextmanager
def computing_equinox(module: Any, params: PyTree) -> Iterator[Any]:
    """Yields an Equinox module that casts at the edges of sub-modules whose dtype is not that of the one around them.

    Each of these sub-modules of the copy is of a subclass of its class, as for taps.

    Args:
      module: with its parameters in it.
      params: these, by path.

    Example:
      >>> import equinox as eqx
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.overrides import computing
      >>> from jaxprop.core.precision import policy
      >>> model = eqx.nn.MLP(4, 2, width_size=3, depth=1, key=jax.random.key(0))
      >>> mixed = policy("bfloat16", overrides=[("s/0", "float32")])
      >>> with computing(mixed), computing_equinox(model, {"layers": {0: {"bias": 1, "weight": 1}}}) as cast:
      ...     type(cast.layers[0]) is type(model.layers[0]), type(cast.layers[1]) is type(model.layers[1])
      (False, True)
    """
    dtypes = dtypes_of(params)
    if dtypes is None:
        yield module
        return
    import equinox

    yield _casting_copy(module, "", "", dtypes, equinox.Module, (equinox.Module, equinox.nn.State))


def _casting_copy(module: Any, path: str, around: str, dtypes: Dtypes, base: type, opaque: tuple[type, ...]) -> Any:
    def inside(node: Any) -> bool:
        return node is not module and isinstance(node, base)

    def copied(at: Any, leaf: Any) -> Any:
        names = [jax.tree_util.keystr((key,), simple=True) for key in at]
        return _casting_copy(leaf, "/".join([path, *names] if path else names), here, dtypes, base, opaque)

    here, original = path if callable(module) else around, cast(Any, type(module))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(module, is_leaf=inside)
    copy = jax.tree.unflatten(treedef, [copied(at, leaf) if inside(leaf) else leaf for at, leaf in leaves])
    called(path)
    edge = dtypes.boundary(path, around)
    if not callable(copy):
        return copy
    made = original if edge is None else _casting_class(original, *edge, opaque)
    if not path:
        made = _ending_class(made, opaque)
    # The copy is ours alone; a module's own __setattr__ refuses any change.
    object.__setattr__(copy, "__class__", made)
    return copy


@functools.cache
def _ending_class(original: Any, opaque: tuple[type, ...]) -> type:
    """What the model itself returns, found while its call is being traced: it may be one of several under `vmap`."""
    call = original.__call__

    @functools.wraps(call)
    def ending(self: Any, *args: Any, **kwargs: Any) -> Any:
        return handed_on(call(self, *args, **kwargs), opaque)

    return type(original)(original.__name__, (original,), {"__call__": ending, "__module__": original.__module__})
