"""Arrays that a program reads besides its state and its batch: arguments of it, and no constants in it. Pure.

A function that reads arrays of its closure hands them to the compiler as constants, which are copied into the program.
The step tells what it reads while it is traced in place of these: the arguments that it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from jaxprop.types import PyTree

_HANDED: ContextVar[PyTree] = ContextVar("handed", default=None)


@contextlib.contextmanager
def handing(arrays: PyTree) -> Iterator[None]:
    """Has functions traced inside read these arrays in place of those of their closure.

    Args:
      arrays: in the structure of `Objective.beside`; None leaves all as it is.

    Example:
      >>> with handing((3.0,)):
      ...     handed((2.0,))
      (3.0,)
    """
    token = _HANDED.set(arrays)
    try:
        yield
    finally:
        _HANDED.reset(token)


def handed(arrays: PyTree) -> PyTree:
    """Returns what the step being traced was given in the place of arrays; elsewhere, these.

    Args:
      arrays: what `Objective.beside` holds.

    Example:
      >>> handed((2.0,))
      (2.0,)
    """
    found = _HANDED.get()
    return arrays if found is None else found
