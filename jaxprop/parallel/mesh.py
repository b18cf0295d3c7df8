"""The mesh of devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxprop.errors import UsageError
from jaxprop.parallel.hosts import process_count

DATA_AXIS = "data"
# From the axis that communicates least, which may lie between slices or machines, to the one that does most.
AXES = (DATA_AXIS, "fsdp", "sequence", "tensor")
BATCH_AXES = (DATA_AXIS, "fsdp")  # that the examples of a batch are split over


def make_mesh(
    devices: int | Sequence[jax.Device] | None = None,
    *,
    data: int | None = None,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
) -> Mesh:
    """Returns a mesh of the axes `data`, `fsdp`, `sequence` and `tensor` over the devices of all processes.

    The batch is split over `data` and `fsdp`; parameters and optimizer state over `fsdp` and `tensor`; the tokens of a
    sequence over `sequence`. An axis of one device is left out, but for `data`.

    Args:
      devices: the number of devices of each process, or the devices themselves; by default all there are.
      data: devices along `data`, which holds whole copies of the parameters; -1 for as many as there are, the default
        where no other axis is -1.
      fsdp: devices along `fsdp`; -1 for as many as there are.
      sequence, tensor: devices along `sequence` and `tensor`.

    Returns:
      The mesh.

    Raises:
      UsageError: there are not as many devices, or the sizes of the axes do not divide them.

    Example:
      >>> make_mesh(1).axis_names, make_mesh(1, fsdp=-1).axis_names
      (('data',), ('data',))

    Reference: https://docs.jax.dev/en/latest/sharded-computation.html
    """
    chosen = _chosen(devices)
    sizes = _sizes({DATA_AXIS: data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}, len(chosen))
    kept = {name: size for name, size in sizes.items() if name == DATA_AXIS or size > 1}
    # With an auto axis the compiler partitions the step; an explicit axis would make shardings part of every type.
    return Mesh(_arranged(chosen, kept), tuple(kept), axis_types=(AxisType.Auto,) * len(kept))


def refuse_local(mesh: Mesh | None) -> None:
    """Raises UsageError where several processes run and a mesh has devices of one alone: each would train by itself.

    Example:
      >>> refuse_local(make_mesh(1))
    """
    count = process_count()
    there = set() if mesh is None else {device.process_index for device in mesh.devices.flat}
    if count > 1 and len(there) < count:
        raise UsageError(
            f"{count} processes run together, and the mesh has devices of {max(len(there), 1)} of them, so the others "
            "would train models of their own; give mesh=jaxprop.make_mesh(), which takes the devices of all"
        )


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """Returns the axes of a mesh that the examples of a batch are split over: `data` and `fsdp`, else its first.

    Example:
      >>> batch_axes(make_mesh(1))
      ('data',)
    """
    return tuple(name for name in BATCH_AXES if name in mesh.shape) or mesh.axis_names[:1]


def parts(mesh: Mesh) -> int:
    """Returns how many parts a batch is split into.

    Example:
      >>> parts(make_mesh(1))
      1
    """
    return math.prod(mesh.shape[name] for name in batch_axes(mesh))


def _chosen(devices: int | Sequence[jax.Device] | None) -> list[jax.Device]:
    if devices is None:
        return list(jax.devices())
    if not isinstance(devices, int):
        return list(devices)
    local = len(jax.local_devices())
    if not 1 <= devices <= local:
        raise UsageError(
            f"expected a number of devices (parallel.devices) between 1 and {local}, those that are here, got {devices}"
        )
    return [device for i in range(jax.process_count()) for device in jax.local_devices(process_index=i)[:devices]]


def _sizes(asked: Mapping[str, int | None], count: int) -> dict[str, int]:
    """The size of every axis, with what is left over for the one that is -1."""
    open_axes = [name for name, size in asked.items() if size == -1]
    if len(open_axes) > 1:
        raise UsageError(f"expected at most one axis of the mesh to be -1, got {' and '.join(open_axes)}")
    free = open_axes[0] if open_axes else DATA_AXIS if asked[DATA_AXIS] is None else None
    sizes = {name: 1 if size is None else size for name, size in asked.items()}
    if wrong := [name for name, size in sizes.items() if name != free and size < 1]:
        raise UsageError(f"expected {wrong[0]} to be a number of devices, or -1 for all, got {sizes[wrong[0]]}")
    fixed = math.prod(size for name, size in sizes.items() if name != free)
    if count % fixed or (free is None and fixed != count):
        told = " x ".join(f"{name} {size}" for name, size in sizes.items() if name != free and size > 1)
        fits = f"a multiple of {fixed} devices" if free else f"{fixed} devices"
        raise UsageError(
            f"a mesh of {told or 'one device'} needs {fits}, and there {'is' if count == 1 else 'are'} {count}; change "
            "parallel.mesh or parallel.devices, in Python what make_mesh is given"
        )
    return sizes if free is None else sizes | {free: count // fixed}


def _arranged(devices: list[jax.Device], sizes: Mapping[str, int]) -> np.ndarray:
    """The devices as an array `[data, fsdp, ...]`, neighbours in the network beside each other."""
    shape = tuple(sizes.values())
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and sizes[DATA_AXIS] % slices == 0:  # only gradients cross the slower network between slices
        inside = (sizes[DATA_AXIS] // slices, *shape[1:])
        between = (slices,) + (1,) * (len(shape) - 1)
        return mesh_utils.create_hybrid_device_mesh(inside, between, devices)
    if slices > 1:  # the first axes cross it
        groups = [[d for d in devices if d.slice_index == i] for i in sorted({d.slice_index for d in devices})]
        return np.concatenate([mesh_utils.create_device_mesh((len(one),), one) for one in groups]).reshape(shape)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(shape, devices)
    return np.array(devices).reshape(shape)
