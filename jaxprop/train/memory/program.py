"""XLA's program and its buffer assignment, as far as they tell what lies in memory at the peak. Pure.

The numbers are those of the fields in XLA's `hlo.proto` and `xla_data.proto`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxprop.train.memory.wire import fields, numbers

DTYPES = {
    1: "bool", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "uint8", 7: "uint16", 8: "uint32", 9: "uint64",
    10: "float16", 11: "float32", 12: "float64", 15: "complex64", 16: "bfloat16", 18: "complex128",
}  # fmt: skip
TUPLE = 13
HOPS = 8  # operands followed from an instruction without metadata, such as a copy, to one that has some


class Instruction(NamedTuple):
    """One instruction of the compiled program.

    Args:
      opcode: of XLA, such as `fusion`.
      shape: serialized.
      op_name: name stack and primitive, as jax wrote them; empty where XLA made the instruction itself.
      frame: number of its stack frame, 0 if there is none.
      operands: their numbers.
      padding: of a convolution, what is added to each spatial axis of its input; `{axis: elements}`.
    """

    opcode: str
    shape: memoryview
    op_name: str
    frame: int
    operands: tuple[int, ...]
    padding: dict[int, int]


class Frame(NamedTuple):
    """One frame of a stack: where the instruction comes from, and the number of the frame that called it."""

    file: str
    line: int
    parent: int


class Value(NamedTuple):
    """An array that the program computes: its size in memory, the instruction that makes it, its place in a tuple."""

    size: int
    instruction: int
    place: tuple[int, ...]


class Program(NamedTuple):
    """A compiled program's instructions by number, and its stack frames, from 1."""

    instructions: dict[int, Instruction]
    frames: tuple[Frame, ...]

    def described(self, number: int) -> Instruction | None:
        """An instruction, or the nearest of its operands that has a name; None where it is unknown."""
        first = found = self.instructions.get(number)
        for _ in range(HOPS):
            if found is None or found.op_name or not found.operands:
                break
            found = self.instructions.get(found.operands[0])
        return found if found is not None and found.op_name else first

    def stack(self, frame: int) -> Iterator[Frame]:
        """Yields frames from the innermost outwards."""
        seen = set()
        while 0 < frame <= len(self.frames) and frame not in seen:
            seen.add(frame)
            yield self.frames[frame - 1]
            frame = self.frames[frame - 1].parent


def program(module: bytes) -> Program:
    """Reads a serialized `HloModuleProto`."""
    instructions: dict[int, Instruction] = {}
    frames: tuple[Frame, ...] = ()
    for number, value in fields(module):
        if number == 3:  # computations
            instructions |= dict(_instruction(inner) for name, inner in fields(value) if name == 2)
        elif number == 17:  # stack_frame_index
            frames = _frames(value)
    return Program(instructions, frames)


def _instruction(message: memoryview) -> tuple[int, Instruction]:
    found: dict[int, Any] = {}
    operands: list[int] = []
    for number, value in fields(message):
        if number == 36:
            operands += numbers(value)
        else:
            found[number] = value
    metadata = dict(fields(found.get(7, b"")))
    shape = found.get(3, memoryview(b""))
    name, frame = _text(metadata.get(2, b"")), metadata.get(15, 0)
    opcode, padding = _text(found.get(2, b"")), _padding(found.get(15, b""), found.get(16, b""))
    return found.get(35, 0), Instruction(opcode, shape, name, frame, tuple(operands), padding)


def _padding(window: memoryview | bytes, dimensions: memoryview | bytes) -> dict[int, int]:
    axes = [axis for number, value in fields(dimensions) if number == 11 for axis in numbers(value)]
    entries = [dict(fields(entry)) for number, entry in fields(window) if number == 1]
    if len(axes) != len(entries):
        return {}
    # Negative padding, which crops, is written as a number of 64 bits.
    added = [sum(side for side in (entry.get(3, 0), entry.get(4, 0)) if side < 2**63) for entry in entries]
    return dict(zip(axes, added, strict=True))


def _frames(message: memoryview) -> tuple[Frame, ...]:
    tables: dict[int, list[Any]] = {}
    for number, value in fields(message):
        tables.setdefault(number, []).append(value)
    files = [_text(name) for name in tables.get(1, [])]
    places = [dict(fields(place)) for place in tables.get(3, [])]

    def frame(entry: dict[int, Any]) -> Frame:
        at = entry.get(1, 0)
        place = places[at - 1] if 0 < at <= len(places) else {}
        file = place.get(1, 0)
        return Frame(files[file - 1] if 0 < file <= len(files) else "", place.get(3, 0), entry.get(2, 0))

    return tuple(frame(dict(fields(entry))) for entry in tables.get(4, []))


def temporaries(assignment: bytes) -> list[Value]:
    """Returns the values in temporary memory at its peak, from a serialized `BufferAssignmentProto`.

    Where XLA does not tell which values are there at the peak, all that have a place in temporary memory.
    """
    values: dict[int, Value] = {}
    assigned: dict[int, list[int]] = {}
    peaks: dict[int, list[int]] = {}
    for number, message in fields(assignment):
        if number == 1:  # logical_buffers
            entry = dict(fields(message))
            values[entry.get(1, 0)] = _value(entry)
        elif number == 3:  # buffer_allocations
            _add_allocation(message, assigned)
        elif number == 5:  # what is there at the peak, by allocation
            index, ids = 0, []
            for name, value in fields(message):
                if name == 1:
                    index = value
                elif name == 2:
                    ids += numbers(value)
            peaks[index] = ids
    return [values[i] for index, ids in assigned.items() for i in peaks.get(index, ids) if i in values]


def constant_bytes(assignment: bytes) -> int:
    """Returns the size of the constants in a program, from a serialized `BufferAssignmentProto`."""
    entries = (dict(fields(message)) for number, message in fields(assignment) if number == 3)
    return sum(entry.get(2, 0) for entry in entries if entry.get(12))


def _value(entry: dict[int, Any]) -> Value:
    index: list[int] = []
    instruction = 0
    for number, value in fields(entry.get(3, b"")):
        if number == 3:
            index += numbers(value)
        elif number == 4:
            instruction = value
    return Value(entry.get(2, 0), instruction, tuple(index))


def _add_allocation(message: memoryview, assigned: dict[int, list[int]]) -> None:
    """Notes which values an allocation holds, if it is neither the program's own nor an argument nor an output."""
    entry = dict(fields(message))
    thread_local, argument, live_out, constant = 3, 5, 7, 12
    if any(entry.get(name) for name in (thread_local, argument, live_out, constant)):
        return
    held = (dict(fields(value)) for number, value in fields(message) if number == 9)
    assigned[entry.get(1, 0)] = [one.get(1, 0) for one in held]


def convolution_bytes(made: Program) -> int:
    """Returns the size of the largest padded copy of its operands that a convolution on CPU makes for itself.

    XLA's kernels there take that memory while they run; it has no place in the buffer assignment.
    """
    found = [0]
    for one in made.instructions.values():
        if one.opcode != "convolution":
            continue
        shapes = [_sizes(made.instructions[operand].shape) for operand in one.operands if operand in made.instructions]
        if len(shapes) == 2:
            (sizes, width), (kernel, kernel_width) = shapes
            padded = [size + one.padding.get(axis, 0) for axis, size in enumerate(sizes)]
            found.append(math.prod(padded) * width + math.prod(kernel) * kernel_width)
    return max(found)


def _sizes(shape: memoryview) -> tuple[list[int], int]:
    """The axes of an array, and the bytes of an element."""
    dtype, sizes = 0, []
    for number, value in fields(shape):
        if number == 2:
            dtype = value
        elif number == 3:
            sizes += numbers(value)
    digits = re.sub(r"\D", "", DTYPES.get(dtype, ""))
    return sizes, int(digits or 8) // 8


def shape_text(shape: memoryview, index: tuple[int, ...] = ()) -> str:
    """Returns a serialized `ShapeProto` as text.

    Example:
      >>> shape_text(memoryview(bytes([0x10, 11, 0x1A, 2, 3, 4])))
      'float32[3,4]'
    """
    dtype, sizes, inner = 0, [], []
    for number, value in fields(shape):
        if number == 2:
            dtype = value
        elif number == 3:
            sizes += numbers(value)
        elif number == 4:
            inner.append(value)
    if dtype == TUPLE:
        return shape_text(inner[index[0]], index[1:]) if index and index[0] < len(inner) else "tuple"
    return f"{DTYPES.get(dtype, 'array')}[{','.join(map(str, sizes))}]"


def _text(value: bytes | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
