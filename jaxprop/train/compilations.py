"""Compilations of a step: noticed as they happen, and explained by what differs from the calls before. Pure.

`jax_explain_cache_misses` says why a function was traced again. It is silent where only the devices of an argument have
changed, names the call it holds for the closest, which may differ in other things than the nearest one, and has to be
on before. So the arguments are compared here, once a call has been seen to compile.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding

from jaxprop.types import PyTree

BUILT = "/jax/core/compile/backend_compile_duration"
EVENTS = {BUILT, "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"}
# What jax compiles a program of its own for without any argument being different.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
)
KEPT = 32  # earlier calls of a program that a new one is compared with
IN_FULL = 3  # repeated compilations that are told one by one; then those whose number is a power of ten
AND = " and "
SHOWN = 2  # changes that a sentence names
FIXES = {
    "setting": "set it before the first call of the step",
    "structure": "give every call the same keys and the same static fields",
    "shape": "give every batch the same shape: drop a short one, or pad it with examples of weight 0",
    "dtype": "cast it to one dtype before the step",
    "weak type": "pass an array of a fixed dtype, such as jnp.float32(x), in place of a Python number",
    "placement": "place it alike in every call, with jax.device_put before the first one",
}
STATE_FIX = "go on with the state that the step returns, and make or restore the first one as the step returns it"


class _Noticed(threading.local):
    """How many programs XLA has built in this thread, and the seconds of tracing, lowering and compiling."""

    programs = 0
    seconds = 0.0


NOTICED = _Noticed()


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event in EVENTS:
        NOTICED.seconds += duration_secs
        NOTICED.programs += event == BUILT


@functools.cache
def listen() -> None:
    """Has jax report compilations to `NOTICED` from now on; a call that compiles nothing reports nothing."""
    jax.monitoring.register_event_duration_secs_listener(_listen)


class Argument(NamedTuple):
    """What jit knows of one array: its type and, where it is bound to devices, where it lies."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool
    place: str

    @property
    def type(self) -> str:
        """In jax's notation, `float32[64,28]`."""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Call(NamedTuple):
    """The arguments of a call as jit tells them apart: by path, their tree, and jax's own settings."""

    arguments: dict[str, Argument]
    trees: tuple[Any, Any]
    settings: dict[str, str]


class Change(NamedTuple):
    """What is different in a call that compiled again.

    Args:
      path: of the argument, such as `batch["inputs"]`, or the name of a setting of jax.
      kind: `shape`, `dtype`, `weak type`, `placement`, several of these joined by ` and `, `structure` or `setting`.
      before, after: of the most similar earlier call, and of this one.
    """

    path: str
    kind: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


class Compilation(NamedTuple):
    """One compilation of a step.

    Args:
      step: the last step of the call that compiled.
      detail: what the call measured; each detail is a program of its own.
      seconds: spent on tracing, lowering and compiling.
      changes: what made it necessary; empty for the first compilation of a program, or where jax had dropped its own.
      message: of one with changes, for a person; empty where it is only counted.
    """

    step: int
    detail: str
    seconds: float
    changes: tuple[Change, ...]
    message: str

    @property
    def fix(self) -> str:
        """What keeps it from happening again."""
        return _fix(self.changes[0]) if self.changes else ""


class Compilations:
    """The compilations of one step, in their order.

    Attributes:
      made: all of them.
      repeats, repeated_seconds: number and time of those that a change of the arguments made necessary.

    Example:
      >>> import numpy as np
      >>> compilations = Compilations()
      >>> for step, size in ((1, 64), (2, 37)):
      ...     compilations.add("rows", step, "rows", 0.8, (), {"x": np.zeros((size, 2), np.float32)})
      >>> print(compilations.made[1].message.partition(";")[0])
      compiled the step again in 0.8 s: batch["x"]: float32[64,2] -> float32[37,2]
    """

    def __init__(self) -> None:
        self.made: list[Compilation] = []
        self.repeats = 0
        self.repeated_seconds = 0.0
        self._calls: dict[Hashable, deque[Call]] = {}

    def add(self, program: Hashable, step: int, detail: str, seconds: float, state: PyTree, batch: PyTree) -> None:
        """Takes in a call that has compiled.

        Args:
          program: what has to be compiled once in any case.
          step: the last step of the call.
          detail: what it measures.
          seconds: how long it took.
          state, batch: what the call was given; donated arrays still have their types.
        """
        call = described(state, batch)
        earlier = self._calls.setdefault(program, deque(maxlen=KEPT))
        found = [tuple(changes(before, call)) for before in reversed(earlier)]
        nearest = min(found, key=_distance, default=())
        earlier.append(call)
        if nearest:
            self.repeats += 1
            self.repeated_seconds += seconds
        self.made.append(Compilation(step, detail, seconds, nearest, self._message(nearest, seconds)))

    def _message(self, found: Sequence[Change], seconds: float) -> str:
        number = self.repeats
        if not found or (number > IN_FULL and str(number).rstrip("0") != "1"):
            return ""
        what = ", ".join(map(str, found[:SHOWN]))
        what += f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        how_often = f"compiled the step again in {seconds:.1f} s: {what}"
        if number > IN_FULL:
            how_often = f"compiled the step again {number} times, in {self.repeated_seconds:.1f} s; now for {what}"
        more = "; later ones are summed up" if number == IN_FULL else ""
        return f"{how_often}; {_fix(found[0])}{more}"


def _distance(found: Sequence[Change]) -> int:
    return sum(len(change.kind.split(AND)) for change in found)


def _fix(change: Change) -> str:
    first = change.kind.split(AND)[0]
    of_state = change.path.startswith("state") and first != "placement"
    return STATE_FIX if of_state else FIXES[first]


def described(state: PyTree, batch: PyTree) -> Call:
    """Returns what jit tells calls apart by; arrays that were donated will do.

    Example:
      >>> described((), {"x": 0.5}).arguments
      {'batch["x"]': Argument(shape=(), dtype='float32', weak=True, place='')}
    """
    arguments: dict[str, Argument] = {}
    trees = []
    for root, tree in (("state", state), ("batch", batch)):
        flat, structure = jax.tree_util.tree_flatten_with_path(tree)
        trees.append(structure)
        for path, leaf in flat:
            name = root + jax.tree_util.keystr(path).replace("'", '"')
            arguments[name] = _argument(leaf)
    settings = {name: str(getattr(jax.config, name, None)) for name in SETTINGS}
    return Call(arguments, (trees[0], trees[1]), settings)


def _argument(leaf: Any) -> Argument:
    kind = jax.typeof(leaf)
    return Argument(tuple(kind.shape), str(kind.dtype), bool(getattr(kind, "weak_type", False)), _place(leaf))


def _place(leaf: Any) -> str:
    # An array that is not bound to its devices follows those that are, and so is like one of NumPy.
    if not isinstance(leaf, jax.Array) or not leaf.committed:
        return ""
    sharding = leaf.sharding
    devices = ", ".join(sorted(map(str, sharding.device_set)))
    return f"{sharding.spec} over {devices}" if isinstance(sharding, NamedSharding) else devices


def changes(before: Call, after: Call) -> Iterator[Change]:
    """Yields what differs between two calls, what explains most first.

    Args:
      before, after: two calls of one program.

    Example:
      >>> [str(change) for change in changes(described((), {"x": 1, "y": 2}), described((), {"x": 1.0}))]
      ['batch["y"]: given -> missing', 'batch["x"]: int32[] -> float32[]']
    """
    for name, value in after.settings.items():
        if before.settings[name] != value:
            yield Change(name, "setting", before.settings[name], value)
    old, new = before.arguments, after.arguments
    yield from (Change(path, "structure", "given", "missing") for path in old if path not in new)
    yield from (Change(path, "structure", "missing", new[path].type) for path in new if path not in old)
    if old.keys() == new.keys():
        for root, one, two in zip(("state", "batch"), before.trees, after.trees, strict=True):
            if one != two:
                yield Change(
                    root,
                    "structure",
                    *_apart(*(str(tree).removeprefix("PyTreeDef(").removesuffix(")") for tree in (one, two))),
                )
    for path in (path for path in new if path in old and new[path] != old[path]):
        yield _change(path, old[path], new[path])


def _change(path: str, old: Argument, new: Argument) -> Change:
    names = ("shape", "dtype", "weak type", "placement")
    differ = [name for name, one, two in zip(names, old, new, strict=True) if one != two]
    said = [one.type for one in (old, new)]
    if "weak type" in differ:
        said = [
            f"{text} of a Python number (weakly typed)" * one.weak or text
            for text, one in zip(said, (old, new), strict=True)
        ]
    if "placement" in differ:
        said = [
            f"{text} {'on ' + one.place if one.place else 'bound to no device'}"
            for text, one in zip(said, (old, new), strict=True)
        ]
    return Change(path, AND.join(differ), said[0], said[1])


def _apart(one: str, two: str) -> tuple[str, str]:
    """Two long texts, cut to where they begin to differ."""
    same = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    start = max(same - 30, 0)
    return one[start : same + 30], two[start : same + 30]
