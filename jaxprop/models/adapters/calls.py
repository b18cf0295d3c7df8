"""Interception of the calls of an NNX module's sub-modules. Pure."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

ROOT = "output"  # the name of the module itself


@contextlib.contextmanager
def intercepted_nnx(module: nnx.Module, attribute: str, around: Callable[..., Any]) -> Iterator[None]:
    """Has a function called in place of each sub-module's `__call__`.

    While the context is open, the class of each sub-module is a subclass of its own, and its path lies in an attribute,
    so that both are still there in what is split from the module and merged again.

    Args:
      module: any; what cannot be called is left as it is.
      attribute: name of that attribute, another one for each context that may be open at a time.
      around: `(call, path, args, kwargs) -> outputs`, with `call` the sub-module's own.

    Example:
      >>> import jax.numpy as jnp
      >>> model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
      >>> called = []
      >>> def around(call, path, args, kwargs):
      ...     called.append(path)
      ...     return call(*args, **kwargs)
      >>> with intercepted_nnx(model, "_path", around):
      ...     y = model(jnp.ones((1, 4)))
      >>> called
      ['output', 'layers/0', 'layers/1']
    """
    changed = []
    try:
        for path, part in nnx.iter_modules(module):
            if not callable(part):
                continue
            setattr(part, attribute, "/".join(map(str, path)) or ROOT)
            changed.append((part, type(part)))
            part.__class__ = _intercepting(type(part), attribute, around)
        yield
    finally:
        for part, original in changed:
            part.__class__ = original
            delattr(part, attribute)


def _intercepting(original: type, attribute: str, around: Callable[..., Any]) -> type:
    call = original.__call__

    @functools.wraps(call)
    def intercepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = getattr(self, attribute, original.__name__)
        return around(functools.partial(call, self), path, args, kwargs)

    members = {"__call__": intercepted, "__module__": original.__module__}
    return type(original)(original.__name__, (original,), members)
