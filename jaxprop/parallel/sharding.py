"""Shardings of batches and states over a mesh."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxprop.core import trees
from jaxprop.errors import UsageError
from jaxprop.parallel.mesh import batch_axes, parts
from jaxprop.types import PyTree

# (path, leaf) -> its PartitionSpec; or shardings as a tree in the structure of the state, or of the top of it.
StateSharding = Callable[[str, Any], PartitionSpec] | PyTree | None


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> replicated(make_mesh(1)).is_fully_replicated
      True
    """
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, steps_per_call: int = 1) -> NamedSharding:
    """Returns the sharding of a batch: its axis of examples split over `data` and `fsdp`.

    Args:
      mesh: from `make_mesh`.
      steps_per_call: above 1 the batch has a leading axis of steps, which is not split.

    Returns:
      The sharding for every array of the batch.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> tuple(batch_sharding(make_mesh(1)).spec)
      ('data',)
    """
    axes: Any = batch_axes(mesh)
    axes = axes[0] if len(axes) == 1 else axes
    return NamedSharding(mesh, PartitionSpec(axes) if steps_per_call == 1 else PartitionSpec(None, axes))


def misplaced(batch: PyTree, mesh: Mesh, steps_per_call: int = 1) -> str | None:
    """Returns the sentence for a batch that cannot be split over a mesh, or None for one that can.

    Args:
      batch: arrays.
      mesh: from `make_mesh`.
      steps_per_call: as in `batch_sharding`.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> misplaced({"x": np.ones((6, 2))}, make_mesh(1)) is None
      True
      >>> misplaced({"scale": 2.0}, make_mesh(1))[:54]
      'a mesh splits every array of the batch by its examples'
    """
    axis, devices = 0 if steps_per_call == 1 else 1, parts(mesh)
    wanted = batch_sharding(mesh, steps_per_call)
    for path, leaf in zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        shape = np.shape(leaf)
        if len(shape) <= axis:
            return (
                f"a mesh splits every array of the batch by its examples, and {path} has the shape {shape}; give one "
                "value for each example, or close over it in loss_fn"
            )
        if shape[axis] % devices:
            size, fits = shape[axis], math.gcd(shape[axis], devices)
            return (
                f"a batch of {size} cannot be divided over the {devices} devices of the mesh ({path} has the shape "
                f"{shape}); use {-(-size // devices) * devices}, filled up with examples of weight 0 where the loss "
                f"takes weights, or mesh=jaxprop.make_mesh({fits})"
            )
        if isinstance(leaf, jax.Array) and leaf.committed and not leaf.sharding.is_equivalent_to(wanted, len(shape)):
            return (
                f"the batch's {path} was placed on {_devices(leaf)}, not split over the mesh; give NumPy arrays, or "
                f"use jax.device_put(batch, jax.NamedSharding(mesh, jax.P{tuple(wanted.spec)}))"
            )
    return None


def _devices(array: jax.Array) -> str:
    return ", ".join(sorted(map(str, array.sharding.device_set)))


def state_shardings(wanted: StateSharding, state: PyTree, mesh: Mesh) -> PyTree:
    """Returns the sharding of every array of a state.

    Args:
      wanted: a function of the path of an array in the state, such as `opt_state/0/mu/dense/kernel`, and the array,
        that returns its `PartitionSpec`; shardings or specs in the structure of the state or of the top of it; or None
        for all of them on every device.
      state: arrays or their shapes.
      mesh: what specs are over.

    Returns:
      Shardings in the structure of the state.

    Raises:
      UsageError: a sharding of something else, or one that does not divide an array.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> split = lambda path, leaf: PartitionSpec("data") if path.endswith("kernel") else PartitionSpec()
      >>> found = state_shardings(split, {"bias": jnp.ones(2), "kernel": jnp.ones((4, 2))}, make_mesh(1))
      >>> {name: tuple(sharding.spec) for name, sharding in found.items()}
      {'bias': (), 'kernel': ('data',)}
    """
    leaves, structure = jax.tree.flatten(state)
    paths = trees.leaf_paths(state)
    if callable(wanted):
        found = [wanted(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    elif wanted is None:
        found = [PartitionSpec()] * len(leaves)
    else:
        found = _broadcast(wanted, state)
    return jax.tree.unflatten(
        structure, [_checked(x, path, leaf, mesh) for x, path, leaf in zip(found, paths, leaves, strict=True)]
    )


def _broadcast(prefix: PyTree, state: PyTree) -> list[Any]:
    def everywhere(one: Any, part: PyTree) -> PyTree:
        return jax.tree.map(lambda _: one, part)

    try:
        whole = jax.tree.map(everywhere, prefix, state, is_leaf=_is_placement)
    except ValueError as error:
        raise UsageError(f"expected state_sharding to have the structure of the state or of its top; {error}") from None
    return jax.tree.leaves(whole, is_leaf=_is_placement)


def _is_placement(x: Any) -> bool:
    return isinstance(x, PartitionSpec | Sharding)


def _checked(placement: Any, path: str, leaf: Any, mesh: Mesh) -> Sharding:
    if not _is_placement(placement):
        raise UsageError(
            f"expected state_sharding to give a PartitionSpec or a Sharding for {path}, got {placement!r}; "
            "jax.sharding.PartitionSpec() puts the whole array on every device"
        )
    try:
        sharding = NamedSharding(mesh, placement) if isinstance(placement, PartitionSpec) else placement
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > leaf.ndim:
            raise ValueError(f"{sharding.spec} has more axes")
        sharding.shard_shape(leaf.shape)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"state_sharding does not fit {path}, an array of shape {leaf.shape}: {reason}") from None
    return sharding
