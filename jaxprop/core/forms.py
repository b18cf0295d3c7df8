"""The platform that a step is traced for, by which layers choose among forms of themselves. Pure.

A layer may have several forms, with the same value and gradient up to rounding, of which one was measured to be faster
on some platform. The default device is not always the one that a program is for: a plan for a TPU is made on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

PLAIN = "plain"  # in place of a platform: the forms that every transformation takes, forward mode too

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)
_APART: ContextVar[bool] = ContextVar("apart", default=False)


@contextlib.contextmanager
def forms_for(platform: str | None) -> Iterator[None]:
    """Has the layers that are traced inside take the forms of a platform.

    Args:
      platform: `"cpu"`, `"gpu"` or `"tpu"`; `PLAIN` for plain forms; None for that of the default device, which also
        holds outside.

    Example:
      >>> with forms_for("tpu"):
      ...     traced_for()
      'tpu'
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


@contextlib.contextmanager
def layers_apart() -> Iterator[None]:
    """Has models traced inside apply layers one by one where many would be a scan: the trace is read, not compiled.

    Example:
      >>> with layers_apart():
      ...     are_layers_apart()
      True
    """
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


def are_layers_apart() -> bool:
    """Whether layers are to be applied one by one.

    Example:
      >>> are_layers_apart()
      False
    """
    return _APART.get()


def traced_for() -> str:
    """Returns the platform whose forms layers take.

    Example:
      >>> traced_for() == jax.default_backend()
      True
    """
    return _PLATFORM.get() or jax.default_backend()
