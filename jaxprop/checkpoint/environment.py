"""What the bits of a run depend on besides its configuration: saved with it, and compared when it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxprop.types import PyTree
from jaxprop.version import versions

_NO_BITS = {"orbax-checkpoint", "python"}  # other versions of these change no number
_FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")


def environment(state: PyTree) -> dict[str, Any]:
    """Returns the versions, flags, mesh, devices and cores of this process, as JSON values.

    Args:
      state: what is trained; its arrays, or `jax.ShapeDtypeStruct`s, say on which devices and mesh.

    Example:
      >>> made = environment({"w": jax.numpy.ones(2)})
      >>> sorted(made), made["devices"], made["mesh"]
      (['affinity', 'cores', 'device_kind', 'devices', 'flags', 'mesh', 'platform', 'processes', 'versions'], 1, {})
    """
    places = [sharding for leaf in jax.tree.leaves(state) if (sharding := getattr(leaf, "sharding", None)) is not None]
    devices = {device for place in places for device in place.device_set} or {jax.devices()[0]}
    one = min(devices, key=lambda device: device.id)
    mesh: Mapping[str, int] = next((place.mesh.shape for place in places if isinstance(place, NamedSharding)), {})
    return {
        "versions": versions(),
        "flags": {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
        | {name: getattr(jax.config, name, None) for name in _FLAGS},
        "mesh": {str(axis): int(size) for axis, size in mesh.items()},
        "processes": jax.process_count(),
        "platform": one.platform,
        "device_kind": one.device_kind,
        "devices": len(devices),
        "cores": os.cpu_count(),
        "affinity": _affinity(),
    }


def _affinity() -> list[int] | None:
    """The cores that this process may use; None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def other_bits(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Returns the note that a run goes on to other bits than it would have had undisturbed, or None where it does not.

    Args:
      before: the environment that the checkpoint was saved in.
      now: that of this process.

    Example:
      >>> other_bits({"platform": "cpu", "affinity": [0, 1]}, {"platform": "cpu", "affinity": [0]})
      'other bits than those of an undisturbed run are to be expected: it was saved on 2 cores, and this process has 1'
    """
    differences = list(_differences(before, now))
    if not differences:
        return None
    return f"other bits than those of an undisturbed run are to be expected: {'; '.join(differences)}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    devices = [f"{made['devices']} {made['device_kind']}" if "devices" in made else "" for made in (before, now)]
    if devices[0] != devices[1]:
        yield f"it was saved on {devices[0]}, and is now on {devices[1]}"
    if _axes(before) != _axes(now):
        yield f"its mesh was {_shown(_axes(before))}, and is now {_shown(_axes(now))}"
    if before.get("processes") != now.get("processes"):
        count = before.get("processes")
        yield f"it was saved by {count} process{'es' * (count != 1)}, and there {_are(now.get('processes'))} now"
    cores = [_cores(made) for made in (before, now)]
    # Sums are split among the cores where these compute; which of the cores they are does not matter.
    if before.get("platform") == now.get("platform") == "cpu" and cores[0] != cores[1]:
        yield f"it was saved on {cores[0]} core{'s' * (cores[0] != 1)}, and this process has {cores[1]}"
    for what in ("versions", "flags"):
        old, new = before.get(what, {}), now.get(what, {})
        for name in sorted({*old, *new} - _NO_BITS):
            if old.get(name) != new.get(name):
                known = [str(values.get(name, "")) or "empty" for values in (old, new)]
                yield f"{name} was {known[0]}, and is now {known[1]}"


def _axes(made: Mapping[str, Any]) -> dict[str, int]:
    return {axis: size for axis, size in made.get("mesh", {}).items() if size > 1}


def _shown(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in axes.items()) or "one device"


def _are(count: Any) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _cores(made: Mapping[str, Any]) -> int | None:
    affinity = made.get("affinity")
    return made.get("cores") if affinity is None else len(affinity)
