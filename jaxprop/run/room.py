"""Whether the memory of the devices could hold a run at all, by the shapes of its state, before anything is made."""

from __future__ import annotations

import jax
from jax.extend.core import get_opaque_trace_state
from jax.sharding import Mesh

from jaxprop.core.trees import size_bytes
from jaxprop.errors import OutOfMemoryError
from jaxprop.parallel.hosts import process_count
from jaxprop.run.vocabulary import device_bytes
from jaxprop.train.memory.predict import size_text
from jaxprop.types import TrainState

_OUTSIDE = get_opaque_trace_state()  # of all transformations


def is_traced() -> bool:
    """Whether this is called while a function is traced, so that nothing takes memory.

    Example:
      >>> is_traced(), jax.eval_shape(lambda: is_traced() + 0).shape
      (False, ())
    """
    return get_opaque_trace_state() != _OUTSIDE


def expect_room(state: TrainState, mesh: Mesh | None) -> None:
    """Refuses a state that does not fit, with one gradient of its parameters, into the memory of all devices.

    What a step needs besides is not counted, so a state that passes may still be too large. A host that has no memory
    left would end the process without a word.

    Args:
      state: arrays, or their shapes.
      mesh: the devices, or None for a single one.

    Raises:
      OutOfMemoryError: it does not fit.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> params = {"w": jax.ShapeDtypeStruct((1_000_000, 1_000_000), "float32")}
      >>> expect_room(TrainState((), params, (), (), (), (), init_health(), ()), None)
      Traceback (most recent call last):
      jaxprop.errors.OutOfMemoryError: this run does not fit in memory: its state and one gradient ...
    """
    each = device_bytes(mesh)
    if each is None or process_count() > 1:  # what other hosts have is not known here
        return
    there, needed = each * (1 if mesh is None else mesh.size), size_bytes(state) + size_bytes(state.params)
    if needed > there:
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        what = "this machine has" if device.platform == "cpu" else "the devices have"
        raise OutOfMemoryError(
            f"this run does not fit in memory: its state and one gradient take {size_text(needed)}, and {what} "
            f"{size_text(there)}; use a smaller model, an optimizer that keeps less, or more devices with "
            "parallel.mesh.fsdp"
        )
