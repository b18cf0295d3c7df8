"""Which mesh and which rematerialization suit a configuration: candidates, the most promising first, each compiled."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import Blocks
from jaxprop.config.schema.run import Mesh
from jaxprop.errors import JaxpropError
from jaxprop.models.remat import NONE, POLICIES
from jaxprop.tools.plan.compiled import TEMPORARY, Placed, place
from jaxprop.tools.plan.subject import Subject
from jaxprop.tools.plan.topology import Target
from jaxprop.train.memory.predict import PARTS

TENSOR = 16  # more devices along it exchange activations for longer than they compute
# Activations that are kept, and operations of the forward pass that are made again, roughly, as shares.
KEPT = {NONE: 1.0, "dots": 0.5, "dots_no_batch": 0.45, "full": 0.1}
AGAIN = {NONE: 0.0, "dots": 0.05, "dots_no_batch": 0.1, "full": 1.0}


class Candidate(NamedTuple):
    """A mesh and a policy to try, and what orders them before they are compiled.

    Args:
      mesh: devices along each axis.
      remat: of `run.remat`.
      bytes: of a device's memory, roughly.
      seconds: of a step, roughly.
    """

    mesh: Mesh
    remat: str
    bytes: float
    seconds: float


class Tried(NamedTuple):
    """A candidate that was compiled, or why it was not.

    Args:
      candidate: what was tried.
      placed: what the compiled step tells; None where there is none.
      problem: why; empty where it was compiled.
    """

    candidate: Candidate
    placed: Placed | None
    problem: str = ""


def meshes(config: Config, chips: int, batch_size: int, tokens: int | None) -> Iterator[Mesh]:
    """Yields the meshes of all devices that divide the batch and the model.

    Args:
      config: the configuration.
      chips: number of devices.
      batch_size: examples in a step.
      tokens: of an example, or None.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> made = build(sections | {"optimizer": {"name": "adam", "lr": 0.1}, "run": {"epochs": 1}})
      >>> [(mesh.data, mesh.fsdp) for mesh in meshes(made, 4, 64, None)]
      [(4, 1), (2, 2), (1, 4)]
    """
    model = config.model
    blocks = isinstance(model, Blocks)
    heads = model.kv_heads or model.heads if isinstance(model, Blocks) else 1
    for tensor, sequence in itertools.product(_divisors(chips), repeat=2):
        if chips % (tensor * sequence) or tensor > min(TENSOR, heads):
            continue
        if heads % tensor or (sequence > 1 and not (blocks and tokens and tokens % sequence == 0)):
            continue
        rest = chips // (tensor * sequence)
        if batch_size % (rest * config.run.accumulate):
            continue
        for fsdp in _divisors(rest):
            yield Mesh(data=rest // fsdp, fsdp=fsdp, sequence=sequence, tensor=tensor)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def candidates(subject: Subject, target: Target, now: Placed) -> list[Candidate]:
    """Returns what to try, the most promising first, without the configured one.

    For each mesh, the policy that seems to fit and be fastest is before the others; then what seems to fit, by its
    time; then the rest, by its memory.

    Args:
      subject: the configuration.
      target: the devices.
      now: what was found of the configured mesh, from which the others are guessed.
    """
    found = [
        _guessed(mesh, remat, subject, target, now)
        for mesh in meshes(subject.config, target.chips, now.batch_size, subject.tokens)
        for remat in (NONE, *POLICIES)
    ]
    limit = now.capacity

    def fits(one: Candidate) -> bool:
        return limit is None or one.bytes <= limit

    best: dict[tuple[int | None, ...], Candidate] = {}
    for one in sorted(filter(fits, found), key=lambda one: one.seconds):
        best.setdefault(tuple(one.mesh.model_dump().values()), one)

    def order(one: Candidate) -> tuple[bool, bool, float]:
        first = best.get(tuple(one.mesh.model_dump().values())) is one
        return not fits(one), not first, one.seconds if fits(one) else one.bytes

    configured = configured_as(now)
    return sorted((one for one in found if (one.mesh, one.remat) != configured), key=order)


def configured_as(now: Placed) -> tuple[Mesh, str]:
    """Returns the mesh and the policy that a step was compiled with."""
    sizes = {"fsdp": 1, "sequence": 1, "tensor": 1} | dict(now.mesh)
    return Mesh(**sizes), now.remat


def _guessed(mesh: Mesh, remat: str, subject: Subject, target: Target, now: Placed) -> Candidate:
    """Rough memory and time, from the sizes of the state and of the activations of the configured mesh."""
    data = mesh.data or 1
    split, spread = mesh.fsdp * mesh.tensor, data * mesh.fsdp
    state, params = now.held / split, 2.0 * now.parameters  # of two bytes each, while computing
    temporary = sum(now.parts.get(PARTS[name], 0) for name in TEMPORARY)
    activations = (temporary or 0.5 * now.needed) * KEPT[remat] / KEPT[now.remat]
    size = state + activations * (now.chips / (spread * mesh.sequence)) / max(mesh.tensor, 1)
    sheet = target.sheet
    if sheet is None or sheet.bandwidth is None:
        return Candidate(mesh, remat, size, now.model_flops * (1 + AGAIN[remat] / 3) + 1e3 * params * (split > 1))
    peak, link = max(sheet.tflops.values()) * 1e12, (sheet.link or sheet.network or 1.0) * 1e9
    compute = now.model_flops * (1 + AGAIN[remat] / 3) / (target.chips * peak)
    gathers = 3 if remat == NONE else 4  # forward, backward, made again, and the sum of gradients
    sent = 2 * params / split * (data > 1) + gathers * params / mesh.tensor * (mesh.fsdp > 1)
    tokens = now.batch_size / spread * (subject.tokens or 1) / mesh.sequence
    width = subject.config.model.width if isinstance(subject.config.model, Blocks) else 0
    layers = subject.config.model.layers if isinstance(subject.config.model, Blocks) else 0
    sent += 8 * layers * tokens * width * 2 * (mesh.tensor > 1) + 4 * layers * tokens * width * 2 * (mesh.sequence > 1)
    return Candidate(mesh, remat, size, max(compute, sent / link) + 0.1 * sent / link)


def search(
    subject: Subject, target: Target, now: Placed, *, number: int, minutes: float, note: Callable[[str], None],
    detail: str = "rows",
) -> tuple[list[Tried], list[Candidate]]:  # fmt: skip
    """Compiles candidates until their number or the time is used up.

    Args:
      subject: the configuration.
      target: the devices.
      now: what was found of the configured mesh, which is among those that were tried.
      number: most candidates to compile besides.
      minutes: after which no further one is begun.
      note: takes a line before each.
      detail: how much the step measures.

    Returns:
      Those that were tried, best first; and those that were not, most promising first.
    """
    waiting, end = candidates(subject, target, now), time.monotonic() + 60 * minutes
    mesh, remat = configured_as(now)
    tried = [Tried(Candidate(mesh, remat, float(now.needed), now.time.high if now.time else 0.0), now)]
    total = min(number, len(waiting))
    while waiting and len(tried) <= number and time.monotonic() < end:
        one = waiting.pop(0)
        note(f"compiling mesh {text(one.mesh)}, remat {one.remat} ({len(tried)} of {total})")
        try:
            tried.append(Tried(one, place(subject, target, one.mesh, one.remat, detail=detail)))
        except JaxpropError as error:
            tried.append(Tried(one, None, str(error).splitlines()[0]))
    return ranked(tried), waiting


def ranked(tried: Sequence[Tried]) -> list[Tried]:
    """Returns what was tried, best first: what fits, by its time without overlap, by its memory where no time is known.

    Args:
      tried: in any order.
    """

    def order(one: Tried) -> tuple[bool, bool, float, float]:
        placed = one.placed
        if placed is None:
            return True, True, 0.0, 0.0
        seconds = placed.time.high if placed.time else 0.0
        return False, placed.fits is False, seconds, placed.needed

    return sorted(tried, key=order)


def text(mesh: Mesh) -> str:
    """Returns a mesh as text, without the axes of one device.

    Example:
      >>> text(Mesh(data=1, fsdp=4, tensor=2))
      'fsdp 4 x tensor 2'
    """
    sizes = {name: size for name, size in mesh.model_dump().items() if size and size > 1}
    return " x ".join(f"{name} {size}" for name, size in sizes.items()) or "data 1"


def overrides(mesh: Mesh, remat: str) -> str:
    """Returns what a command is given for a candidate.

    Example:
      >>> overrides(Mesh(data=1, fsdp=4), "full")
      'parallel.mesh.data=1 parallel.mesh.fsdp=4 run.remat=full'
    """
    sizes = {name: size for name, size in mesh.model_dump().items() if name == "data" or size > 1}
    return " ".join([*(f"parallel.mesh.{name}={size}" for name, size in sizes.items()), f"run.remat={remat}"])
