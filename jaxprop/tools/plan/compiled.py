"""One configuration's step, compiled for devices that need not be there, and what that tells."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.run import Mesh
from jaxprop.core.trees import size_bytes
from jaxprop.errors import ConfigError, JaxpropError, OutOfMemoryError
from jaxprop.parallel.mesh import make_mesh, parts
from jaxprop.run.compose import compose
from jaxprop.run.vocabulary import with_chunks
from jaxprop.tools.plan.account import Account, account
from jaxprop.tools.plan.hlo import Program, parse
from jaxprop.tools.plan.live import temporary_parts
from jaxprop.tools.plan.roofline import Estimate, estimate
from jaxprop.tools.plan.subject import Subject, with_run
from jaxprop.tools.plan.topology import Target
from jaxprop.train.memory import Buffer, predict
from jaxprop.train.memory.predict import PARTS

GIB = 2**30
TEMPORARY = ("activations", "gradients", "temporaries")  # of a prediction's parts
ARGUMENTS = ("params", "opt_state", "ema", "extras", "state", "batch")
SHARE = 0.75  # of a GPU's memory, which JAX takes by default
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])")
_TEMPORARY = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")


class Placed(NamedTuple):
    """A configuration on devices, compiled.

    Args:
      target: name of the devices.
      chips: how many there are.
      mesh: axis -> devices, without those of one but for `data`.
      remat: of `run.remat`.
      batch_size: examples in a step.
      fits: whether the step fits in the memory of a device; None where that memory is not known.
      needed: bytes of each device's memory at the peak; of a step that does not fit, at least.
      capacity: bytes that a device's programs can have, or None.
      parts: what holds it -> bytes; empty where the compiler has ended for lack of memory.
      buffers: arrays in temporary memory at the peak, largest first, where the compiler tells them.
      parameters: number of scalars.
      held: bytes of the state over all devices if each held its part once.
      work: what one device does; None where `parts` is empty.
      model_flops: operations of the model's products in a step, over all devices.
      time: the estimate; None where the program or the devices are not known.
      per_second: examples a second at `time.high` and at `time.low`.
      tokens: in an example, or None.
      seconds: that lowering and compiling took.
    """

    target: str
    chips: int
    mesh: dict[str, int]
    remat: str
    batch_size: int
    fits: bool | None
    needed: int
    capacity: int | None
    parts: Mapping[str, int]
    buffers: tuple[Buffer, ...]
    parameters: int
    held: int
    work: Account | None
    model_flops: float
    time: Estimate | None
    per_second: tuple[float, float] | None
    tokens: int | None
    seconds: float


def place(
    subject: Subject, target: Target, mesh: Mesh | None = None, remat: str | None = None, batch_size: int | None = None,
    *, detail: str = "rows",
) -> Placed:  # fmt: skip
    """Compiles the step of a configuration for devices, and reads what the program tells.

    Args:
      subject: the configuration.
      target: the devices.
      mesh: devices along each axis; default: as configured.
      remat: policy of rematerialization; default: as configured.
      batch_size: examples in a step; default: as configured.
      detail: how much the step measures: `"rows"`, as most do, or `"full"`, which needs more memory.

    Raises:
      JaxpropError: the mesh, the batch and the devices do not fit together, or the step cannot be compiled for them.
    """
    size = batch_size or subject.batch_size
    config = with_run(subject.with_batch(size), remat=remat or subject.config.run.remat)
    if mesh is not None:
        config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"mesh": mesh})})
    made = make_mesh(target.devices, **config.parallel.mesh.model_dump())
    _check_batch(config, parts(made), target)
    config = with_chunks(config, subject.sources["train"], made, capacity_of(target))
    started = time.perf_counter()
    experiment = compose(config, subject.sources, mesh=made)
    state = jax.eval_shape(lambda: experiment.init(config.run.seed))
    shape, capacity = dict(made.shape), capacity_of(target)
    common: dict[str, Any] = {
        "target": target.name, "chips": target.chips, "mesh": shape, "remat": config.run.remat, "batch_size": size,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)), "held": size_bytes(state),
        "model_flops": subject.flops(size), "tokens": subject.tokens,
    }  # fmt: skip
    try:
        compiled = experiment.step.lower(state, subject.batch(size), detail).compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError, MemoryError) as error:
        needed, limit = _asked(error, target)
        return Placed(
            **common, fits=False, needed=needed, capacity=limit or capacity, parts={}, buffers=(), work=None,
            time=None, per_second=None, seconds=time.perf_counter() - started,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    program = parse(compiled.as_text())
    held, buffers = _held(compiled, program)
    needed, work = sum(held.values()), account(program, shape, [device.id for device in made.devices.flat])
    guess = estimate(work, common["model_flops"], target, list(made.devices.flat), config.precision.policy)
    return Placed(
        **common, fits=None if capacity is None else needed <= capacity, needed=needed, capacity=capacity,
        parts=held, buffers=buffers, work=work, time=guess,
        per_second=(size / guess.high, size / guess.low) if guess else None, seconds=seconds,
    )  # fmt: skip


def _held(compiled: Any, program: Program) -> tuple[dict[str, int], tuple[Buffer, ...]]:
    """Memory at the peak by what holds it, in words, with what a TPU's layouts add; and the largest temporaries."""
    memory, stats = predict(compiled), compiled.memory_analysis()
    if memory is None or stats is None:
        return {}, ()
    parts = dict(memory.parts)
    temporary = sum(parts.pop(name, 0) for name in TEMPORARY)
    split = {name: parts_of for name, parts_of in memory.parts.items() if name in TEMPORARY}
    if not memory.buffers:  # a compiler that does not tell where it puts arrays
        guessed = temporary_parts(program)
        scale = min(1.0, temporary / (sum(guessed.values()) or 1.0))
        split = {name: int(guessed.get(name, 0.0) * scale) for name in ("activations", "gradients")}
        split["temporaries"] = temporary - sum(split.values())
    words = {PARTS[name]: count for name, count in {**parts, **split}.items() if count}
    arguments = sum(memory.parts.get(name, 0) for name in ARGUMENTS)
    if (padding := stats.argument_size_in_bytes - arguments) > 0:
        words["padding of the state and the batch"] = padding
    if _platform(compiled) == "tpu":  # which keeps the program in the same memory
        words["program"] = stats.generated_code_size_in_bytes
    return words, memory.buffers


def _platform(compiled: Any) -> str:
    return next(iter(jax.tree.leaves(compiled.input_shardings)[0].device_set)).platform


def _check_batch(config: Config, count: int, target: Target) -> None:
    parts, size = config.run.accumulate, config.data.batch_size
    if size % (parts * count):
        kept = f" in {parts} microbatches" if parts > 1 else ""
        near = -(-size // (parts * count)) * parts * count
        raise ConfigError(
            f"data.batch_size: {size}{kept} cannot be divided over the {count} devices of {target.name} that examples "
            f"are split over; use data.batch_size={near}, or move devices to parallel.mesh.tensor"
        )


def capacity_of(target: Target) -> int | None:
    """Returns the bytes of a device's memory that a step can have, or None if that is not known."""
    if target.sheet is None or target.sheet.memory is None:
        return None
    return int(target.sheet.memory * GIB * (SHARE if target.platform == "gpu" else 1.0))


def _asked(error: BaseException, target: Target) -> tuple[int, int | None]:
    """What a compiler that ended for lack of a device's memory says it needs, and has.

    Raises:
      JaxpropError: it ended for another reason.
    """
    told = str(error)
    for pattern in (_USED, _TEMPORARY):
        if found := pattern.search(told):
            needed, unit, limit, its_unit = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(limit) * _UNITS[its_unit])
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in told:
        raise OutOfMemoryError(
            f"this machine has not enough memory to compile the step for {target.name}; use a larger machine, fewer "
            "layers, or fewer chips"
        ) from error
    line = " ".join(told.split("\n\n")[0].split())[:400]
    raise JaxpropError(f"the step cannot be compiled for {target.name}: {line}") from error


def axes_text(mesh: Mapping[str, int]) -> str:
    """Returns a mesh as text.

    Example:
      >>> axes_text({"data": 2, "fsdp": 4}), axes_text({"data": 1, "fsdp": 4}), axes_text({"data": 1})
      ('data 2 x fsdp 4', 'fsdp 4', 'data 1')
    """
    kept = {name: size for name, size in mesh.items() if size > 1} or {"data": 1}
    return " x ".join(f"{name} {size}" for name, size in kept.items())
