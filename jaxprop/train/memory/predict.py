"""The memory that a compiled step needs at its peak, by what holds it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxprop.core.jaxprs.sites import is_backward, is_written, scope_of
from jaxprop.errors import printable
from jaxprop.parallel.offload import is_on_host
from jaxprop.train.memory.program import (
    Program,
    Value,
    constant_bytes,
    convolution_bytes,
    program,
    shape_text,
    temporaries,
)
from jaxprop.types import PyTree, TrainState

PARTS = {
    "params": "parameters",
    "opt_state": "optimizer state",
    "ema": "moving average",
    "extras": "extras",
    "state": "rest of the state",
    "batch": "batch",
    "teacher": "teacher",
    "outputs": "measurements",
    "constants": "constants",
    "activations": "activations",
    "gradients": "gradients",
    "temporaries": "other temporaries",
    "kernels": "copies made by convolutions",
}
LIMIT = 12  # buffers that are shown
# What jax writes into a name stack for its own control flow.
_CONTROL = re.compile(
    r"^(while|body|cond|branch_\d+_fun|scan|closed_call|eval_jaxpr|checkpoint|remat\d?|custom_[jv]\w+_call\w*|shard_map|pjit)$"
)
_TRAIN = __file__.replace("\\", "/").rpartition("/memory/")[0] + "/"
_JIT = re.compile(r"\bp?jit\([^()]*\)")


class Buffer(NamedTuple):
    """Arrays in temporary memory at the peak that come from one operation of one layer.

    Args:
      size: bytes of all of them.
      number: how many there are.
      layer: named scopes around the operation; empty where there are none.
      operation: the primitive, or XLA's name of what it made itself.
      place: `file:line` of the innermost line that belongs to no library; empty where there is none.
      shape: dtype and shape of each.
      part: `"activations"`, `"gradients"` or `"temporaries"`.
    """

    size: int
    number: int
    layer: str
    operation: str
    place: str
    shape: str
    part: str


class Memory(NamedTuple):
    """What a compiled step needs of each device's memory; `print` shows it as text.

    Args:
      peak: bytes at the peak, the sum of the parts.
      parts: name, a key of `PARTS`, -> bytes.
      buffers: what of it is temporary, largest first; empty where the backend does not tell.
    """

    peak: int
    parts: Mapping[str, int]
    buffers: tuple[Buffer, ...]

    @property
    def largest(self) -> tuple[str, int]:
        """The largest part, in words, and its bytes."""
        name = max(self.parts, key=lambda name: self.parts[name])
        return PARTS[name], self.parts[name]

    def __str__(self) -> str:
        return text(self)


def predict(compiled: Any) -> Memory | None:
    """Returns the memory that a compiled train step needs on each device, from XLA's buffer assignment.

        peak = state + batch + outputs that are not written over the state + constants + temporaries

    and, on CPU, the padded copies that the largest convolution makes of its operands.

    Args:
      compiled: of `(state, batch)`, from `step.lower(state, batch).compile()`.

    Returns:
      The prediction; None where the backend does not report memory.

    Example:
      >>> import jaxprop, optax, jax.numpy as jnp
      >>> step = jaxprop.make_train_step(lambda p, b, key: jnp.mean((b @ p) ** 2), optax.sgd(0.1))
      >>> state = step.init(jnp.ones((8, 4)), key=jax.random.key(0))
      >>> found = predict(step.lower(state, jnp.ones((16, 8))).compile())
      >>> found.parts["params"], found.parts["batch"], found.peak == sum(found.parts.values())
      (128, 512, True)
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    parts = _held(compiled)
    parts["outputs"] = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    buffers: tuple[Buffer, ...] = ()
    assignment = getattr(stats, "serialized_buffer_assignment_proto", b"")
    try:
        parts["constants"] = constant_bytes(assignment)
        executable = compiled.runtime_executable()
        made = program(executable.hlo_modules()[0].as_serialized_hlo_module_proto())
        buffers = attributed(made, temporaries(assignment))
        if executable.client.platform == "cpu":
            parts["kernels"] = convolution_bytes(made)
    except (ValueError, IndexError, NotImplementedError, AttributeError, jax.errors.JaxRuntimeError):
        pass  # a backend that does not tell, or tells it in another form: the sums above still hold
    parts |= _temporary(stats.temp_size_in_bytes, buffers)
    parts = {name: parts[name] for name in PARTS if parts.get(name)}
    return Memory(sum(parts.values()), parts, buffers)


def _held(compiled: Any) -> dict[str, int]:
    """Bytes of the arguments on each device, by what of the state they are."""
    (state, batch, *beside), _ = compiled.args_info
    shardings = compiled.input_shardings[0]
    if not isinstance(state, TrainState):
        return {"state": _bytes(state, shardings[0]), "batch": _bytes(batch, shardings[1])}
    fields = {name: _bytes(getattr(state, name), getattr(shardings[0], name)) for name in TrainState._fields}
    named = {name: fields.pop(name) for name in ("params", "opt_state", "ema", "extras")}
    held = named | {"state": sum(fields.values()), "batch": _bytes(batch, shardings[1])}
    return held | ({"teacher": _bytes(beside, shardings[2:])} if beside else {})


def _bytes(tree: PyTree, shardings: PyTree) -> int:
    leaves, placed = jax.tree.leaves(tree), jax.tree.leaves(shardings)
    if len(leaves) != len(placed):
        placed = [None] * len(leaves)

    def size(leaf: Any, sharding: Any) -> int:
        if is_on_host(sharding):
            return 0
        shape = sharding.shard_shape(leaf.shape) if hasattr(sharding, "shard_shape") else leaf.shape
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(size(leaf, sharding) for leaf, sharding in zip(leaves, placed, strict=True))


def _temporary(total: int, buffers: Sequence[Buffer]) -> dict[str, int]:
    """Temporary memory by part; what lies between arrays belongs to none of them."""
    parts = dict.fromkeys(("activations", "gradients"), 0)
    for buffer in buffers:
        if buffer.part in parts:
            parts[buffer.part] += buffer.size
    rest = total - sum(parts.values())
    return parts | {"temporaries": rest} if rest >= 0 else {"temporaries": total}


def attributed(made: Program, values: Sequence[Value]) -> tuple[Buffer, ...]:
    """Groups values by layer, operation, line and shape, the largest group first.

    Args:
      made: the program.
      values: of it, from `temporaries`.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for value in values:
        at, known = made.instructions.get(value.instruction), made.described(value.instruction)
        if at is None or known is None:
            key = ("", "", "", "", "temporaries")
        else:
            layer, operation = named(known.op_name)
            if known.opcode == "parameter":
                operation = f"{at.opcode} of {known.op_name}"
            elif known.opcode in ("dot", "convolution") or not operation:
                operation = known.opcode
            shape = shape_text(at.shape, value.place)
            if shape == "tuple":  # a table of pointers
                continue
            key = (layer, operation, place_of(made, known.frame), shape, part_of(known.op_name))
        groups.setdefault(key, []).append(value.size)
    found = [
        Buffer(sum(sizes), len(sizes), layer, operation, place, shape, part)
        for (layer, operation, place, shape, part), sizes in groups.items()
    ]
    return tuple(sorted(found, key=lambda buffer: -buffer.size))


def place_of(made: Program, frame: int) -> str:
    """Returns `file:line` of the innermost line of a stack that belongs to no library.

    A stack that comes to the train step before such a line is of the step's own work, as the update is: whoever calls
    the step has not written it.
    """
    for one in made.stack(frame):
        if is_written(one.file):
            return f"{one.file}:{one.line}"
        if one.file.replace("\\", "/").startswith(_TRAIN):
            break
    return ""


def named(op_name: str) -> tuple[str, str]:
    """Returns the named scopes of an operation, and its primitive.

    Args:
      op_name: as jax writes it into a program.

    Example:
      >>> named("jit(train_step)/while/body/closed_call/transpose(jvp(blocks/0))/attn/dot_general")
      ('blocks/0/attn', 'dot_general')
      >>> named("jit(train_step)/transpose(jvp(blocks/0))/checkpoint/rematted_computation/blocks/0/jit(gelu)/tanh")
      ('blocks/0', 'tanh')
      >>> named("jit(train_step)/add"), named("")
      (('', 'add'), ('', ''))
    """
    if ":jit(" in op_name:  # XLA has made one operation of several, as it does with those between devices
        return "", ""
    path, _, primitive = _JIT.sub("", op_name).rpartition("/")
    names = [name for name in path.split("/") if name and not _CONTROL.match(name)]
    return scope_of("/".join(names)), primitive


def part_of(op_name: str) -> str:
    """Returns what an operation's result is: of the forward pass, of the backward pass, or neither.

    Example:
      >>> part_of("jit(f)/jvp(head)/dot"), part_of("jit(f)/transpose(jvp(head))/dot"), part_of("jit(f)/cond/add")
      ('activations', 'gradients', 'temporaries')
    """
    if is_backward(op_name):
        return "gradients"
    return "activations" if "jvp(" in op_name else "temporaries"


def text(found: Memory, limit: int = LIMIT) -> str:
    """Returns a prediction as text: the peak, its parts, and the largest buffers.

    Args:
      found: the prediction.
      limit: largest number of buffers.
    """
    lines = [f"predicted peak of one step, each device: {size_text(found.peak)}"]
    lines += [f"  {PARTS[name]:<28} {size_text(size):>10}" for name, size in found.parts.items()]
    if found.buffers:
        lines.append("largest temporaries at the peak:")
    for buffer in found.buffers[:limit]:
        where = " ".join(filter(None, (buffer.layer or "(no layer)", buffer.operation, buffer.place)))
        times = f" x {buffer.number}" if buffer.number > 1 else ""
        lines.append(f"  {size_text(buffer.size):>12}  {buffer.shape}{times}  {printable(where)}")
    return "\n".join(lines)


def size_text(size: float) -> str:
    """Returns a number of bytes in a suitable unit.

    Example:
      >>> size_text(512), size_text(3 * 2**20)
      ('512 B', '3.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
