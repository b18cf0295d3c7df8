"""Which layer of a Flax module is being called, for `jaxprop.models.quantized`. Pure."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprop.models.adapters.calls import ROOT, intercepted_nnx

_numbers = itertools.count()

# `x @ kernel` is a jitted function, whose trace jax keeps by its shapes: the layer has to be part of the key, or a
# layer that is quantized would share the product of one that is not, in this model or in another one.
_layer = jax.make_user_context(None)


class Scope:
    """What is known while a quantized model is called.

    Attributes:
      layers: paths of the layers to quantize.
      seen: of these layers, those in which a product was quantized, and which operations: `{path: ["dot_general"]}`.
      entered: whether an adapter has told the layers of its module.
    """

    def __init__(self) -> None:
        self.layers: frozenset[str] = frozenset()
        self.seen: dict[str, set[str]] = {}
        self.entered = False
        self._number = next(_numbers)

    def calling(self, path: str) -> contextlib.AbstractContextManager[None]:
        """A context in which the layer of this path is called."""
        return _layer((self._number, path) if path in self.layers else None)


_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("quantizing", default=None)


def current_layer() -> str | None:
    """Returns the path of the innermost layer being called, or None where that is not quantized.

    Example:
      >>> current_layer() is None
      True
    """
    value = _layer.value
    return None if value is None else value[1]


def names_layers() -> bool:
    """Whether a quantized model is being called, for which layers are told by their paths.

    Example:
      >>> names_layers()
      False
    """
    return _scope.get() is not None


@contextlib.contextmanager
def scoped(scope: Scope) -> Iterator[None]:
    """A context in which the adapters tell a scope which layer is called.

    Example:
      >>> with scoped(Scope()):
      ...     pass
    """
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def layers_of_nnx(module: nnx.Module) -> Iterator[None]:
    """Tells which sub-module of an NNX module is called, by its path of attributes.

    While the context is open, the class of each sub-module is a subclass of its own, as for the taps.

    Example:
      >>> import jax.numpy as jnp
      >>> scope = Scope()
      >>> scope.layers = frozenset({"layers/1"})
      >>> named = lambda x: (print(current_layer()), x)[1]
      >>> model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Sequential(named))
      >>> with scoped(scope), layers_of_nnx(model):
      ...     y = model(jnp.ones((1, 2)))
      layers/1
    """
    scope = _scope.get()
    if scope is None:
        yield
        return
    scope.entered = True

    def named(call: Callable[..., Any], path: str, args: Any, kwargs: Any) -> Any:
        with scope.calling(path):
            return call(*args, **kwargs)

    with intercepted_nnx(module, "_quantized_layer", named):
        yield


@contextlib.contextmanager
def layers_of_linen() -> Iterator[None]:
    """Tells which Linen module is called inside, by its path.

    Example:
      >>> with layers_of_linen():
      ...     pass
    """
    scope = _scope.get()
    if scope is None:
        yield
        return
    scope.entered = True

    def named(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "setup":
            return call(*args, **kwargs)
        with scope.calling("/".join(context.module.path) or ROOT):
            return call(*args, **kwargs)

    with nn.intercept_methods(named):
        yield
