"""Where arrays lie on a mesh while a step is traced: what a layer says of them, and the step translates. Pure.

A compiler that splits a program over devices follows the arrays that it is given. Where it has a choice, as between
gathering a kernel and gathering the activations that it multiplies, it often takes the dearer way. So the step says
where parameters are gathered, and layers say how their activations are split; on one device both say nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from jaxprop.types import PyTree

BATCH = "batch"  # stands for all the axes that examples are split over


class Shards(NamedTuple):
    """How the leaves of a tree are split over a mesh.

    Args:
      mesh: the devices.
      specs: of every leaf.
    """

    mesh: Mesh
    specs: tuple[PartitionSpec, ...]


class Places(NamedTuple):
    """What a mesh makes of what is said.

    Args:
      axes: names of the axes of more than one device.
      shards: where the parts of parameters lie, and of what is shaped like them.
      gather: takes parameters to where they are computed with.
      scatter: takes gradients to where their parameters lie.
      constrain: `(array, names) -> array`, split over the axes of those names, as far as they divide it.
    """

    axes: frozenset[str]
    shards: Callable[[PyTree], Shards]
    gather: Callable[[PyTree], PyTree]
    scatter: Callable[[PyTree], PyTree]
    constrain: Callable[[jax.Array, tuple[str | None, ...]], jax.Array]


_PLACES: ContextVar[Places | None] = ContextVar("places", default=None)


@contextlib.contextmanager
def placing(places: Places | None) -> Iterator[None]:
    """Makes what is said within the block hold on a mesh.

    Args:
      places: of the mesh, or None for a single device.
    """
    token = _PLACES.set(places)
    try:
        yield
    finally:
        _PLACES.reset(token)


def splits(axis: str) -> bool:
    """Returns whether the step being traced is split over an axis.

    Example:
      >>> splits("tensor")
      False
    """
    places = _PLACES.get()
    return places is not None and axis in places.axes


def divided() -> bool:
    """Returns whether the step being traced is split over devices, along whatever axis.

    Example:
      >>> divided()
      False
    """
    places = _PLACES.get()
    return places is not None and bool(places.axes)


def gathered(params: PyTree) -> PyTree:
    """Returns parameters where they are computed with: whole along the axes that only spread them.

    Example:
      >>> gathered({"w": 1.0})
      {'w': 1.0}
    """
    places = _PLACES.get()
    return params if places is None else places.gather(params)


def scattered(grads: PyTree) -> PyTree:
    """Returns gradients where their parameters lie, so that no device sums up more of them than it holds.

    Example:
      >>> scattered({"w": 1.0})
      {'w': 1.0}
    """
    places = _PLACES.get()
    return grads if places is None else places.scatter(grads)


def place(x: jax.Array, *names: str | None) -> jax.Array:
    """Returns an array, split over axes of the mesh as far as there are such.

    Args:
      x: any array.
      names: for each dimension `BATCH`, the name of an axis, or None for no split.

    Example:
      >>> import jax.numpy as jnp
      >>> place(jnp.ones((2, 3)), BATCH, None).shape
      (2, 3)
    """
    places = _PLACES.get()
    return x if places is None else places.constrain(x, names)
