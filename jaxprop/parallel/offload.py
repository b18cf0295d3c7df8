"""The optimizer's state in the memory of the host: between steps it takes none of the devices' own."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxprop.errors import UsageError
from jaxprop.parallel.rules import SMALL
from jaxprop.types import TrainState

HOST = "pinned_host"  # what a device copies from and to by itself


def offloaded(state: TrainState, shardings: TrainState, mesh: Mesh) -> TrainState:
    """Returns shardings that keep the large arrays of the optimizer's state on the host.

    Small ones, such as the count of updates, stay on the devices, since a copy of them would cost more than it frees.

    Args:
      state: arrays, or their shapes.
      shardings: of all of its arrays.
      mesh: the devices.

    Raises:
      UsageError: the devices cannot reach the host's memory.

    Example:
      >>> import jax.numpy as jnp, jaxprop, optax
      >>> from jaxprop.parallel.sharding import state_shardings
      >>> mesh, state = jaxprop.make_mesh(1), jaxprop.init_state(jnp.ones(2048), optax.adam(0.1), key=jax.random.key(0))
      >>> where = offloaded(state, state_shardings(None, state, mesh), mesh)
      >>> where.opt_state[0].mu.memory_kind, where.params.memory_kind == where.opt_state[0].count.memory_kind
      ('pinned_host', True)
    """
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise UsageError(
            f"the optimizer's state cannot lie in the host's memory: a {device.platform} device reaches "
            f"{', '.join(kinds) or 'none'} alone; leave offload_optimizer out"
        )

    def moved(leaf: jax.Array, sharding: NamedSharding) -> NamedSharding:
        return sharding.with_memory_kind(HOST) if is_offloaded(leaf) else sharding

    return shardings._replace(opt_state=jax.tree.map(moved, state.opt_state, shardings.opt_state))


def is_offloaded(leaf: Any) -> bool:
    """Returns whether an array of the optimizer's state is large enough to be kept on the host.

    Args:
      leaf: the array, or its shape.

    Example:
      >>> is_offloaded(jax.ShapeDtypeStruct((), int))
      False
    """
    return math.prod(leaf.shape) >= SMALL


def is_on_host(sharding: Any) -> bool:
    """Returns whether an array takes no memory of its devices; on CPU theirs is the host's.

    Args:
      sharding: of the array.

    Example:
      >>> is_on_host(jax.sharding.SingleDeviceSharding(jax.devices()[0]))
      False
    """
    kind = getattr(sharding, "memory_kind", None)
    return kind == HOST and all(device.platform != "cpu" for device in sharding.device_set)


def fetched(state: TrainState) -> TrainState:
    """Returns a state whose optimizer's arrays lie on the devices, as a step computes with them; for use within jit.

    Args:
      state: inside of a compiled step.

    Example:
      >>> import jax.numpy as jnp, jaxprop, optax
      >>> state = jaxprop.init_state(jnp.ones(2), optax.adam(0.1), key=jax.random.key(0))
      >>> jax.jit(fetched)(state).opt_state[0].mu.tolist()
      [0.0, 0.0]
    """
    return state._replace(opt_state=jax.device_put(state.opt_state, jax.memory.Space.Device))
