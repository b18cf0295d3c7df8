"""What one step of a compiled program does on each device: operations, bytes of memory, and collectives. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxprop.tools.plan.groups import axes_of, pairs, replica_groups, slice_groups
from jaxprop.tools.plan.hlo import Array, Instruction, Program

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
# These move nothing by themselves: what they hold is counted where it is read or written.
FREE = frozenset(
    (
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
        "partition-id", "replica-id", "opt-barrier", "optimization-barrier", "add-dependency", "domain",
    )
)  # fmt: skip
SLICING = ("slice", "dynamic-slice", "gather")
Computation = Mapping[str, Instruction]


class Collective(NamedTuple):
    """The collectives of one kind among the same devices.

    Args:
      kind: such as `all-gather`.
      axes: of the mesh, along which the devices differ; empty where the program does not tell.
      devices: in a group.
      times: how often a device takes part in one, in a step.
      size: bytes of the whole arrays in a step, as each device holds them before or after.
      sent: bytes that a device sends in a step by the ring algorithms.
      groups: places of the devices in the mesh, those of one group in a row.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    times: float
    size: float
    sent: float
    groups: np.ndarray


class Account(NamedTuple):
    """What one device does in a step.

    Args:
      flops: of products and convolutions: two for each multiplication and addition.
      moved: bytes read from and written to main memory, if each operation reads what it needs and writes its result.
      collectives: by kind and devices, those that send most first.
      loops_unknown: loops whose number of turns the program does not tell; they count once.
      sends_unknown: exchanges between slices of TPUs, of which the program does not tell the devices; not counted.
    """

    flops: float
    moved: float
    collectives: tuple[Collective, ...]
    loops_unknown: int
    sends_unknown: int = 0


def account(program: Program, mesh: Mapping[str, int], ids: Sequence[int] = ()) -> Account:
    """Adds up a program's work, with each loop as often as it turns.

    Args:
      program: of one device.
      mesh: axis -> size, in the order of the devices that the program was compiled for.
      ids: of those devices; several slices of TPUs name each other's chips by them.

    Returns:
      The account.

    Example:
      >>> from jaxprop.tools.plan.hlo import parse
      >>> text = '''ENTRY %main (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
      ...   %a = f32[4,8]{1,0} parameter(0)
      ...   %b = f32[8,2]{1,0} parameter(1)
      ...   ROOT %dot = f32[4,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      ... }'''
      >>> found = account(parse(text), {"data": 1})
      >>> found.flops, found.moved
      (128.0, 224.0)
    """
    work = _Work(program, mesh, {one: place for place, one in enumerate(ids)})
    work.run(program.entry, 1.0, inside=False)
    found = sorted(work.collectives.values(), key=lambda one: -one.sent)
    return Account(work.flops, work.moved, tuple(found), work.loops_unknown, work.sends_unknown)


class _Work:
    """Sums over a walk through the computations that run."""

    def __init__(self, program: Program, mesh: Mapping[str, int], place: Mapping[int, int]):
        self.program, self.mesh, self.devices = program, mesh, math.prod(mesh.values())
        self.flops = self.moved = 0.0
        self.collectives: dict[tuple[str, tuple[str, ...], int, int], Collective] = {}
        self.loops_unknown = self.sends_unknown = 0
        self._place, self._seen = place, set[tuple[str, str]]()

    def run(self, name: str, times: float, *, inside: bool) -> None:
        """Adds a computation; `inside` a fusion, whose own reads and writes are the fusion's."""
        computation = self.program.computations.get(name, {})
        for one in computation.values():
            if one.opcode in ("dot", "convolution"):
                self.flops += times * flops_of(one, computation)
            kind = one.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                self._collective(one, computation, kind, times, inside)
            elif kind == "send":
                self._between_slices(one, computation, times)
            if not inside:
                self.moved += times * self._moved(one, computation)
            self._called(one, times, inside)

    def _called(self, one: Instruction, times: float, inside: bool) -> None:
        if one.opcode == "while":
            body, turns = one.attribute("body"), one.trips
            if turns is None:
                turns = _turns(self.program.computations.get((one.attribute("condition") or "").lstrip("%"), {}))
            if turns is None:
                self.loops_unknown += 1
            self.run((body or "").lstrip("%"), times * (1 if turns is None else turns), inside=inside)
        elif one.opcode == "conditional":
            # One branch runs; that with the most work stands for it.
            branches = [_Work(self.program, self.mesh, self._place) for _ in one.called]
            for branch, name in zip(branches, one.called, strict=True):
                branch.run(name, times, inside=inside)
            if branches:
                self._add(max(branches, key=lambda branch: (branch.flops, branch.moved)))
        elif one.opcode in ("fusion", "call", "async-start", "custom-call"):
            for name in one.called:
                self.run(name, times, inside=inside or one.opcode != "call")

    def _add(self, other: _Work) -> None:
        self.flops += other.flops
        self.moved += other.moved
        self.loops_unknown += other.loops_unknown
        self.sends_unknown += other.sends_unknown
        for found in other.collectives.values():
            self._note(found)

    def _collective(self, one: Instruction, computation: Computation, kind: str, times: float, inside: bool) -> None:
        channel = one.attribute("channel_id")
        if inside and channel is not None:
            # A TPU computes other things during a collective by one fusion for each part of it: one channel, one time.
            if (kind, channel) in self._seen:
                return
            self._seen.add((kind, channel))
        operands = sum(array.size for name in one.operands if name in computation for array in computation[name].arrays)
        results = sum(array.size for array in one.arrays)
        if kind == "collective-permute":
            groups = pairs(_after(one.rest, "source_target_pairs="))
            self._note(
                Collective(kind, axes_of(groups, self.mesh), 2, times, times * operands, times * operands, groups)
            )
            return
        found = replica_groups(_after(one.rest, "replica_groups="), self.devices)
        groups = np.arange(self.devices)[None] if found is None else found
        # A TPU writes the sum of which each device keeps a part as one fusion.
        if kind == "all-reduce" and inside and any(other.opcode == "dynamic-slice" for other in computation.values()):
            kind = "reduce-scatter"
        if one.opcode.endswith("-start") and len(one.arrays) > 1:
            results = max(array.size for array in one.arrays)
        size = max(operands, results)
        share = (groups.shape[1] - 1) / groups.shape[1] * (2 if kind == "all-reduce" else 1)
        axes = () if found is None else axes_of(groups, self.mesh)
        self._note(Collective(kind, axes, groups.shape[1], times, times * size, times * size * share, groups))

    def _between_slices(self, one: Instruction, computation: Computation, times: float) -> None:
        """Adds a collective over slices of TPUs: their hosts exchange arrays, as a pair of `send` and `recv`."""
        if "megascale" not in one.rest:
            return
        kind = (one.attribute("_xla_megascale_transfer_type") or "").strip('"{}').lower().replace("_", "-")
        ids = slice_groups(_after(one.rest, "_xla_megascale_target="))
        if not kind or ids is None or not self._place.keys() >= set(ids.flat):
            self.sends_unknown += 1
            return
        groups = np.vectorize(self._place.__getitem__)(ids)
        count = groups.shape[1]
        size = times * sum(
            array.size for name in one.operands if name in computation for array in computation[name].arrays
        )
        if kind == "one-to-one":
            self._note(Collective("collective-permute", axes_of(groups, self.mesh), 2, times, size, size, groups))
            return
        size *= count if kind == "all-gather" else 1
        share = (count - 1) / count * (2 if kind == "all-reduce" else 1)
        self._note(Collective(kind, axes_of(groups, self.mesh), count, times, size, size * share, groups))

    def _note(self, one: Collective) -> None:
        if one.devices == 1 or not one.size:
            return
        # Groups that reach less far lie within a slice, where the network is another.
        extent = 0 if one.kind == "collective-permute" else int(np.ptp(one.groups[0]))
        key = (one.kind, one.axes, one.devices, extent)
        before = self.collectives.get(key)
        if before is not None:
            one = before._replace(
                times=before.times + one.times, size=before.size + one.size, sent=before.sent + one.sent
            )
        self.collectives[key] = one

    def _moved(self, one: Instruction, computation: Computation) -> float:
        if one.opcode in FREE or one.opcode.endswith("-done"):
            return 0.0
        fused = self.program.computations.get(one.called[0], {}) if one.opcode in ("fusion", "async-start") else {}
        if one.opcode in SLICING or one.opcode == "slice-start":
            return 2 * _main(one.arrays[:1])
        if one.opcode == "dynamic-update-slice":
            return 2 * _read(computation, one.operands[1:2])
        if one.opcode == "send":
            return _read(computation, one.operands)
        if one.opcode == "recv":
            return _main(one.arrays[:1])
        if one.opcode == "copy-start":  # (destination, source, context)
            return _main(one.arrays[:2])
        if one.opcode.endswith("-start") and not fused:
            return _main(one.arrays)
        if not fused:
            return _main(one.arrays) + _read(computation, one.operands)
        return _written(one, fused) + sum(
            _used(place, name, computation, fused) for place, name in enumerate(one.operands)
        )


def _after(text: str, mark: str) -> str:
    return text.partition(mark)[2]


def _main(arrays: tuple[Array, ...]) -> float:
    """Bytes of the arrays that lie in main memory; others lie on the chip."""
    return sum(array.size for array in arrays if array.space == 0)


def _read(computation: Computation, names: tuple[str, ...]) -> float:
    return sum(_main(computation[name].arrays) for name in names if name in computation)


def _used(place: int, name: str, computation: Computation, fused: Computation) -> float:
    """Bytes of an operand that a fusion reads: of one that it only slices, the slices."""
    whole = _read(computation, (name,))
    parameter = next((one.name for one in fused.values() if one.index == place), None)
    if parameter is None or not whole:
        return whole
    names = {parameter}
    read = 0.0
    for one in fused.values():
        if not names & set(one.operands):
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode in SLICING and one.operands[0] in names:
            read += sum(array.size for array in one.arrays)
        elif not (one.opcode == "dynamic-update-slice" and one.operands[0] in names):
            return whole
    return min(read, whole)


def _written(one: Instruction, fused: Computation) -> float:
    """Bytes of a fusion's result: where it changes a part of an array in place, that part."""
    root = next((inner for inner in fused.values() if inner.root), None)
    while root is not None and root.opcode == "bitcast" and root.operands and root.operands[0] in fused:
        root = fused[root.operands[0]]
    if root is not None and root.opcode == "dynamic-update-slice" and _main(one.arrays):
        return sum(array.size for name in root.operands[1:2] for array in fused[name].arrays)
    return _main(one.arrays)


def _turns(condition: Computation) -> int | None:
    """How often a loop turns whose condition compares a counter, from 0 on, with a constant."""
    numbers = [one.number for one in condition.values() if one.number is not None]
    return numbers[0] if len(numbers) == 1 else None


def flops_of(one: Instruction, computation: Computation) -> float:
    """Operations of a `dot` or a `convolution`, which on a TPU stands for any product.

    Args:
      one: the instruction.
      computation: that it stands in.
    """
    shapes = [computation[name].arrays[0].shape for name in one.operands[:2] if name in computation]
    if len(shapes) < 2:
        return 0.0
    if one.opcode == "dot":
        contracted = [int(axis) for axis in re.findall(r"\d+", one.attribute("lhs_contracting_dims") or "")]
        return 2.0 * math.prod(one.arrays[0].shape) * math.prod(shapes[0][axis] for axis in contracted)
    return _convolution_flops(one, shapes[0], shapes[1])


def _convolution_flops(one: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    labels = (one.attribute("dim_labels") or "").replace("->", "_").split("_")
    if len(labels) != 3:
        return 0.0
    inputs, kernel, outputs = labels
    shape = one.arrays[0].shape
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", one.rest) or [""])[0][8:]))
    flops = 2.0 * right[kernel.index("i")] * shape[outputs.index("b")] * shape[outputs.index("f")]
    for axis, label in enumerate(sorted(label for label in outputs if label.isdigit())):
        low = int(_entry(window, "pad", axis, "0_0").split("_")[0])
        flops *= _taps(
            left[inputs.index(label)], right[kernel.index(label)], shape[outputs.index(label)],
            int(_entry(window, "stride", axis, "1")), low, int(_entry(window, "lhs_dilate", axis, "1")),
            int(_entry(window, "rhs_dilate", axis, "1")),
        )  # fmt: skip
    return flops


def _entry(window: Mapping[str, str], name: str, axis: int, usual: str) -> str:
    entries = window[name].split("x") if name in window else []
    return entries[axis] if axis < len(entries) else usual


def _taps(size: int, kernel: int, out: int, stride: int, low: int, spread: int, apart: int) -> int:
    """Pairs of an output and a kernel's value along one axis that meet an input, not padding nor a hole."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * apart - low
    return int(np.sum((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)))
