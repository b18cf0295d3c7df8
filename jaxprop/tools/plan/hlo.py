"""The text of a compiled XLA program as computations and instructions. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"\bS\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BITS = re.compile(r"\d+")
BYTES = {"pred": 1.0, "token": 0.0, "opaque": 0.0, "c64": 8.0, "c128": 16.0}


class Array(NamedTuple):
    """One array of an instruction's result.

    Args:
      dtype: as XLA writes it, such as `bf16`.
      shape: on one device.
      space: number of the memory it lies in; 0 is the device's main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> float:
        """Bytes."""
        width = BYTES.get(self.dtype)
        if width is None:
            bits = _BITS.search(self.dtype)
            width = int(bits[0]) / 8 if bits else 0.0
        return math.prod(self.shape) * width


class Instruction:
    """One instruction; what of it is rarely asked for is parsed when it is.

    Args:
      name: without the percent sign.
      opcode: such as `fusion`.
      arrays: of the result, those of a tuple one after the other.
      operands: the text between the parentheses.
      rest: attributes, as text.
      root: whether it is the result of its computation.
    """

    def __init__(self, name: str, opcode: str, arrays: tuple[Array, ...], operands: str, rest: str, root: bool):
        self.name, self.opcode, self.arrays, self.rest, self.root = name, opcode, arrays, rest, root
        self._operands = operands

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands."""
        return tuple(_NAME.findall(self._operands))

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        found = [part for text in _CALLED.findall(self.rest) for part in text.strip("{}").split(",")]
        return tuple(part.strip().lstrip("%") for part in found if part.strip())

    @property
    def trips(self) -> int | None:
        """How often a loop runs, where XLA knows it."""
        found = _TRIPS.search(self.rest)
        return int(found[1]) if found else None

    @property
    def number(self) -> int | None:
        """The value of an integer constant."""
        text = self._operands.strip()
        return int(text) if self.opcode == "constant" and re.fullmatch(r"-?\d+", text) else None

    @property
    def index(self) -> int | None:
        """Which parameter of its computation it is."""
        return int(self._operands) if self.opcode == "parameter" else None

    def attribute(self, name: str) -> str | None:
        """An attribute's text up to the comma after it, such as `{1}` of `dimensions={1}`."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*\}}|[^ ,]+)", self.rest)
        return found[1] if found else None


class Program(NamedTuple):
    """Computations by name, each its instructions by name in their order, and the name of the entry."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Parses the text of an HLO module.

    Args:
      text: of `compiled.as_text()`.

    Returns:
      The program; empty where the text is none.

    Example:
      >>> made = parse("ENTRY %main (x: f32[2]) -> f32[2] {\\n  ROOT %x = f32[2]{0} parameter(0)\\n}\\n")
      >>> made.entry, made.computations["main"]["x"].arrays[0].size
      ('main', 8.0)
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head is None:
                continue
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _LINE.match(line)) is not None:
            instruction = _instruction(found[2], found[3], bool(found[1]))
            if instruction is not None:
                current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction | None:
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")
    start = text.find("(", end + 1)
    if end < 0 or start < 0:
        return None
    close = _closing(text, start)
    opcode = text[end:start].strip(" )")
    return Instruction(name, opcode, tuple(arrays(text[:end])), text[start + 1 : close], text[close + 1 :], root)


def _closing(text: str, start: int) -> int:
    """The place after which the parenthesis at `start` is closed."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return start + found.start() + (1 if start == 0 else 0)
    return len(text)


def arrays(text: str) -> Iterator[Array]:
    """Yields the arrays of a type, those of a tuple one after the other.

    Example:
      >>> list(arrays("(bf16[8,4]{1,0:T(8,128)S(1)}, s32[])"))
      [Array(dtype='bf16', shape=(8, 4), space=1), Array(dtype='s32', shape=(), space=0)]
    """
    for dtype, shape, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        yield Array(
            dtype, tuple(int(size.strip("<= ")) for size in shape.split(",") if size), int(space[1]) if space else 0
        )
