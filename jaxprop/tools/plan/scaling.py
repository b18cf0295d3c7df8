"""Weak scaling: the same number of examples on each device, on ever more of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from jaxprop.config.schema.run import Mesh
from jaxprop.errors import JaxpropError
from jaxprop.tools.plan.compiled import Placed, place
from jaxprop.tools.plan.subject import Subject
from jaxprop.tools.plan.topology import MOST, Target, smaller


class Scaled(NamedTuple):
    """One point of a weak scaling.

    Args:
      chips: how many devices.
      placed: what the compiled step tells; None where it could not be compiled.
      problem: why; empty where it was.
    """

    chips: int
    placed: Placed | None
    problem: str = ""


def sizes(target: Target) -> list[int]:
    """Returns how many devices to compile for: every power of two to 512, or of this host to those that there are."""
    most = target.chips if target.platform == "host" else MOST
    return [2**i for i in range(int(math.log2(most)) + 1)]


def scaled_mesh(mesh: Mesh, chips: int, wanted: int) -> Mesh:
    """Returns the mesh for another number of devices: `tensor` and `sequence` as far as they divide it, the rest grows.

    The axis that grows is `fsdp`, if the mesh has it, and otherwise `data`.

    Args:
      mesh: as configured, for `chips` devices.
      chips: how many that is for.
      wanted: how many there are.

    Example:
      >>> scaled_mesh(Mesh(fsdp=4, tensor=2), 8, 32).model_dump()
      {'data': 1, 'fsdp': 16, 'sequence': 1, 'tensor': 2}
    """
    sizes = {name: size for name, size in mesh.model_dump().items() if size not in (None, -1)}
    tensor = math.gcd(_given(sizes.get("tensor", 1), mesh.tensor, chips), wanted)
    sequence = math.gcd(sizes.get("sequence", 1), wanted // tensor)
    rest = wanted // (tensor * sequence)
    if mesh.fsdp == 1:
        return Mesh(data=rest, fsdp=1, sequence=sequence, tensor=tensor)
    copies = math.gcd(sizes.get("data", 1), rest) if mesh.fsdp == -1 else 1
    return Mesh(data=copies, fsdp=rest // copies, sequence=sequence, tensor=tensor)


def _given(size: int, asked: int, chips: int) -> int:
    return chips if asked == -1 else size


def scaling(
    subject: Subject, target: Target, *, minutes: float, note: Callable[[str], None], detail: str = "rows"
) -> tuple[list[Scaled], list[int]]:
    """Compiles the step for growing numbers of devices, from one on, the batch growing with them.

    Args:
      subject: the configuration, whose batch is for the devices of the target.
      target: the devices.
      minutes: after which no further size is begun.
      note: takes a line before each.
      detail: how much the step measures.

    Returns:
      The points that were reached, in order, and the sizes that were not.
    """
    end, waiting, found = time.monotonic() + 60 * minutes, sizes(target), []
    configured = subject.config.parallel.mesh
    while waiting and time.monotonic() < end:
        chips = waiting.pop(0)
        mesh = scaled_mesh(configured, target.chips, chips)
        note(f"compiling for {chips} of {sizes(target)[-1]} devices")
        try:
            here = smaller(target, chips)
            placed = place(subject, here, mesh, batch_size=scaled_batch(subject, target, mesh, chips), detail=detail)
            found.append(Scaled(chips, placed))
        except JaxpropError as error:
            found.append(Scaled(chips, None, str(error).splitlines()[0]))
    return found, waiting


def scaled_batch(subject: Subject, target: Target, mesh: Mesh, chips: int) -> int:
    """Returns the batch size that leaves each device its share, rounded up to what the mesh divides.

    Args:
      subject: the configuration.
      target: what its batch is for.
      mesh: of the devices.
      chips: how many there are.
    """
    count = (mesh.data or 1) * mesh.fsdp * subject.config.run.accumulate
    share = subject.batch_size * chips / target.chips
    return max(math.ceil(share / count), 1) * count
