"""Which arrays a compiled program holds at once, from the order that it runs in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jaxprop.tools.plan.hlo import Instruction, Program
from jaxprop.train.memory.predict import part_of

# Their results lie where an operand lies: in all of them, or in the first.
ALL = frozenset(("tuple", "while", "conditional", "opt-barrier", "optimization-barrier"))
FIRST = frozenset(("bitcast", "get-tuple-element", "dynamic-update-slice", "add-dependency"))
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def temporary_parts(program: Program) -> dict[str, float]:
    """Returns the bytes of temporary arrays at the peak by what they are: `activations`, `gradients`, `temporaries`.

    An array is there from the instruction that writes it to the last one that reads it. The compiler packs arrays, and
    writes some in place of others, so its own sum differs somewhat.

    Args:
      program: whose instructions stand in the order that they run in.

    Example:
      >>> from jaxprop.tools.plan.hlo import parse
      >>> text = '''ENTRY %main (a: f32[4]) -> f32[2] {
      ...   %a = f32[4]{0} parameter(0)
      ...   %b = f32[4]{0} negate(%a), metadata={op_name="jit(step)/jvp(head)/neg"}
      ...   %c = f32[8]{0} pad(%b), metadata={op_name="jit(step)/transpose(jvp(head))/pad"}
      ...   ROOT %d = f32[2]{0} slice(%c)
      ... }'''
      >>> temporary_parts(parse(text))
      {'activations': 16.0, 'gradients': 32.0}
    """
    computation = program.computations.get(program.entry, {})
    roots = _roots(computation)
    order = list(computation.values())
    last = {root: i for i, one in enumerate(order) for name in one.operands for root in roots.get(name, ())}
    kept = {root for one in order if one.root for root in roots[one.name]}
    ends: dict[int, list[str]] = {}
    for name, i in last.items():
        ends.setdefault(i, []).append(name)
    live: dict[str, float] = {}
    now = peak = 0.0
    at_peak: dict[str, float] = {}
    for i, one in enumerate(order):
        size = _size(one) if roots[one.name] == (one.name,) and one.name not in kept else 0.0
        if size and one.name in last:
            live[one.name] = size
            now += size
            if now > peak:
                peak, at_peak = now, dict(live)
        for name in ends.get(i, ()):
            now -= live.pop(name, 0.0)
    found: dict[str, float] = {}
    for name, size in at_peak.items():
        part = part_of(_op_name(computation[name], computation))
        found[part] = found.get(part, 0.0) + size
    return found


def _size(one: Instruction) -> float:
    if one.opcode in ("parameter", "constant", "iota"):
        return 0.0
    arrays = one.arrays[:1] if one.opcode.endswith("-start") else one.arrays
    return sum(array.size for array in arrays if array.space == 0)


def _roots(computation: Mapping[str, Instruction]) -> dict[str, tuple[str, ...]]:
    """Whose memory each instruction's result lies in."""
    found: dict[str, tuple[str, ...]] = {}
    for one in computation.values():
        operands = [name for name in one.operands if name in found]
        if one.opcode in ALL:
            found[one.name] = tuple(dict.fromkeys(root for name in operands for root in found[name]))
        elif (one.opcode in FIRST or one.opcode.endswith("-done")) and operands:
            found[one.name] = found[operands[0]]
        else:
            found[one.name] = (one.name,)
    return found


def _op_name(one: Instruction, computation: Mapping[str, Instruction]) -> str:
    """What jax called the operation, or the nearest of its operands that has a name, as a copy has none."""
    current: Instruction | None = one
    for _ in range(8):
        if current is None:
            break
        named = _OP_NAME.search(current.rest)
        if named:
            return named[1]
        current = next((computation[name] for name in current.operands if name in computation), None)
    return ""
