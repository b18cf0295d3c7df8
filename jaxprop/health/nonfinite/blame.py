"""From a loss or a gradient that is not finite back to the equations it became so in. Pure.

The walk goes from the results backwards, through entries that are not finite and that the result depends on, and ends
where an equation made them of finite numbers. An infinity may be meant, as in a mask of -inf: where a NaN is made of
infinities alone, these are to blame only if an equation made them, and not if they were written in the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxprop.core.jaxprs.walk import LOOPS
from jaxprop.health.nonfinite.interpret import Entry, Interpreter, Value, bad_entries
from jaxprop.health.nonfinite.loops import Turn, turns
from jaxprop.health.nonfinite.masks import sources

EXACT = 5_000  # equations of a loop in all up to which each turn is opened; beyond, only those that matter


class Want(NamedTuple):
    """Bad entries of a value that a result depends on, and who is to blame if nobody else is."""

    entries: np.ndarray
    suspects: frozenset[int] = frozenset()


class Origin(NamedTuple):
    """An equation that made something non-finite, and which entries of which output."""

    entry: Entry
    output: int
    entries: np.ndarray


class Blame(NamedTuple):
    """What a backtrace has found.

    Args:
      origins: in the order of execution.
      inputs: wants that reach the program's own inputs, by slot.
      visited: every equation on the way, in the order of execution.
    """

    origins: list[Origin]
    inputs: dict[int, Want]
    visited: list[Entry]


class Backtrace:
    """One way back over a tape; the ways through the turns of a loop share what is found.

    Args:
      tape: as an `Interpreter` wrote it.
    """

    def __init__(self, tape: Sequence[Entry]):
        self._tape = tape
        self._origins: list[Origin] = []
        self._visited: list[Entry] = []
        self._suspects: dict[int, Origin] = {}
        self._cleared: set[int] = set()

    def from_results(self, results: Sequence[Value]) -> Blame:
        """Walks back from results of the program."""
        wants: dict[int, Want] = {}
        for value in results:
            if value.slot is not None:
                _add(wants, value.slot, Want(bad_entries(value.array)))
        left = self._back(self._tape, wants)
        origins = [*self._origins, *(o for i, o in self._suspects.items() if i not in self._cleared)]
        return Blame(sorted(origins, key=_order), left, sorted(self._visited, key=lambda entry: entry.order))

    def _back(self, tape: Sequence[Entry], wants: dict[int, Want]) -> dict[int, Want]:
        """Takes wants back over a tape; returns those of values that were there before it."""
        for entry in reversed(tape):
            met = [wants.pop(value.slot, None) if value.slot is not None else None for value in entry.outputs]
            if any(want is not None for want in met):
                self._visited.append(entry)
                for slot, want in self._through(entry, met).items():
                    _add(wants, slot, want)
        return wants

    def _through(self, entry: Entry, met: Sequence[Want | None]) -> dict[int, Want]:
        """The wants of an equation's inputs."""
        if entry.primitive in LOOPS:
            before = len(self._origins), len(self._suspects)
            wants = self._through_loop(entry, met)
            if wants or (len(self._origins), len(self._suspects)) != before:
                return wants
        suspects = frozenset().union(*(want.suspects for want in met if want is not None))
        bad = sources(entry, [None if want is None else want.entries for want in met])
        if not bad:
            self._origins.append(_origin(entry, met))
            self._cleared |= suspects
            return {}
        arrays = [value.array for value in entry.inputs]
        if _any_nan([value.array for value in entry.outputs], dict(enumerate(met))) and not _has_nan(arrays, bad):
            self._suspects[id(entry)] = _origin(entry, met)
            suspects |= {id(entry)}
        elif not suspects and all(entry.inputs[i].slot is None for i in bad):
            self._origins.append(
                _origin(entry, met)
            )  # an infinity that the program itself holds, and that is the result
        return {
            slot: Want(entries, suspects) for i, entries in bad.items() if (slot := entry.inputs[i].slot) is not None
        }

    def _through_loop(self, entry: Entry, met: Sequence[Want | None]) -> dict[int, Want]:
        """Takes wants back through a loop, turn by turn."""
        wants: dict[int, Want] = {}
        loop = turns(entry)
        rows: dict[int, np.ndarray] = {}  # of what is scanned over, by the equation's input
        suspects: dict[int, frozenset[int]] = {}
        outer: list[dict[int, Want]] = []
        carried: list[Want | None] = list(loop.last(met))
        exact = len(loop.turns) * len(loop.body.jaxpr.eqns) <= EXACT
        for turn in reversed(loop.turns):
            wanted = loop.outputs(turn, carried, met)
            found = self._through_turn(loop.body, turn, wanted, exact)
            carried = loop.carried(found)
            for i, want in loop.rows(found).items():
                whole = rows.setdefault(i, np.zeros((len(loop.turns), *want.entries.shape), bool))
                whole[turn.number] = want.entries
                suspects[i] = suspects.get(i, frozenset()) | want.suspects
            outer.append(loop.constants(found))
        outer += [loop.first(carried), {i: Want(whole, suspects[i]) for i, whole in rows.items()}]
        for i, want in (item for wanted in outer for item in wanted.items()):
            slot = entry.inputs[i].slot
            if slot is not None:
                _add(wants, slot, want)
        return wants

    def _through_turn(
        self, body: ClosedJaxpr, turn: Turn, wanted: Sequence[Want | None], exact: bool
    ) -> dict[int, Want]:
        """The wants of one turn's inputs, by position."""
        if not any(want is not None and want.entries.any() for want in wanted):
            return {}
        bad = {i: entries for i, array in enumerate(turn.inputs) if (entries := bad_entries(array)).any()}
        suspects = frozenset().union(*(want.suspects for want in wanted if want is not None))
        if bad and not exact and (_has_nan(turn.inputs, bad) or not _any_nan(turn.outputs, dict(enumerate(wanted)))):
            return {i: Want(entries, suspects) for i, entries in bad.items()}
        inside = Interpreter(turned_back=any(turn.cotangents))
        arguments = inside.arguments(turn.inputs, turn.owners, turn.cotangents)
        outputs = inside.run(body, arguments, turn.caller)
        wants: dict[int, Want] = {}
        for value, want in zip(outputs, wanted, strict=True):
            if want is not None and value.slot is not None:
                entries = want.entries & bad_entries(value.array)
                if entries.any():
                    _add(wants, value.slot, Want(entries, want.suspects))
        left = self._back(inside.tape, wants)
        return {i: left[value.slot] for i, value in enumerate(arguments) if value.slot in left}


def _add(wants: dict[int, Want], slot: int, want: Want) -> None:
    if want.entries.any():
        known = wants.get(slot)
        wants[slot] = want if known is None else Want(known.entries | want.entries, known.suspects | want.suspects)


def _origin(entry: Entry, met: Sequence[Want | None]) -> Origin:
    i = next(i for i, want in enumerate(met) if want is not None)
    want = met[i]
    assert want is not None
    return Origin(entry, i, want.entries)


def _any_nan(arrays: Sequence[Any], wants: Mapping[int, Want | None]) -> bool:
    return _has_nan(arrays, {i: want.entries for i, want in wants.items() if want is not None})


def _has_nan(arrays: Sequence[Any], entries: Mapping[int, np.ndarray]) -> bool:
    return any(np.isnan(np.asarray(arrays[i])[chosen]).any() for i, chosen in entries.items())


def _order(origin: Origin) -> tuple[int, ...]:
    return origin.entry.order
