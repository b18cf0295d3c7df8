"""The turns of a scan or while that has been run whole: what went into each and came out of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxprop.core.jaxprs.walk import scan_parts
from jaxprop.health.nonfinite.interpret import Caller, Entry, Owner


class Turn(NamedTuple):
    """One turn: its number, the body's inputs and outputs, the layers they come from, and what the body inherits."""

    number: int
    inputs: list[Any]
    outputs: list[Any]
    owners: list[Owner | None]
    cotangents: list[bool]
    caller: Caller


class Loop(NamedTuple):
    """A loop taken apart.

    The body reads constants, what is carried, and a row of what is scanned over, in this order; it returns what is
    carried on, and rows of what is stacked up.

    Args:
      body: closed jaxpr of one turn.
      turns: in the order of execution.
      consts, carry: how many of the body's inputs are constants, and carried.
      offset: inputs of the equation before the first that is the body's (a while's condition has its own constants).
    """

    body: ClosedJaxpr
    turns: list[Turn]
    consts: int
    carry: int
    offset: int

    def last(self, met: Sequence[Any]) -> Sequence[Any]:
        """What is wanted of the last turn's carry."""
        return met[: self.carry]

    def outputs(self, turn: Turn, carried: Sequence[Any], met: Sequence[Any]) -> list[Any]:
        """What is wanted of a turn's outputs: its carry, and its rows of what is stacked up."""
        rows = [
            None if want is None else want._replace(entries=want.entries[turn.number]) for want in met[self.carry :]
        ]
        return [*carried, *rows]

    def carried(self, found: Mapping[int, Any]) -> list[Any]:
        """What is wanted of the turn before."""
        return [found.get(self.consts + i) for i in range(self.carry)]

    def first(self, carried: Sequence[Any]) -> dict[int, Any]:
        """What is wanted of the equation's inputs that the first turn's carry is."""
        wants = {self.offset + self.consts + i: want for i, want in enumerate(carried)}
        return {i: want for i, want in wants.items() if want is not None}

    def constants(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """What one turn wants of the equation's inputs that are constants."""
        return {self.offset + i: want for i, want in found.items() if i < self.consts}

    def rows(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """What one turn wants of its row of the equation's inputs that are scanned over."""
        return {self.offset + i: want for i, want in found.items() if i >= self.consts + self.carry}


def turns(entry: Entry) -> Loop:
    """Runs a loop again, turn by turn, and keeps what goes into each."""
    return _scan(entry) if entry.primitive == "scan" else _while(entry)


def _scan(entry: Entry) -> Loop:
    equation = entry.equation
    body = equation.params["jaxpr"]
    consts, carry = scan_parts(equation)
    arrays = [value.array for value in entry.inputs]
    fixed, carried, scanned = arrays[:consts], arrays[consts : consts + carry], arrays[consts + carry :]
    turn_body = jax.jit(jaxpr_as_fun(body))
    found: list[Turn] = []
    cotangents = [value.cotangent for value in entry.inputs]
    length = equation.params["length"]
    for count in range(length):
        at = length - 1 - count if equation.params["reverse"] else count
        owners = [_row_owner(value.owner, at, i >= consts + carry) for i, value in enumerate(entry.inputs)]
        inputs = [*fixed, *carried, *(array[at] for array in scanned)]
        outputs = turn_body(*inputs)
        found.append(Turn(at, inputs, outputs, owners, cotangents, _caller(entry, count)))
        carried = outputs[:carry]
    return Loop(body, found, consts, carry, 0)


def _while(entry: Entry) -> Loop:
    params = entry.equation.params
    before, consts = params["cond_nconsts"], params["body_nconsts"]
    arrays = [value.array for value in entry.inputs]
    asked, fixed, carried = arrays[:before], arrays[before : before + consts], arrays[before + consts :]
    owners = [value.owner for value in entry.inputs[before:]]
    cotangents = [value.cotangent for value in entry.inputs[before:]]
    condition = jax.jit(jaxpr_as_fun(params["cond_jaxpr"]))
    body = jax.jit(jaxpr_as_fun(params["body_jaxpr"]))
    found: list[Turn] = []
    while bool(np.all(condition(*asked, *carried)[0])):
        inputs, count = [*fixed, *carried], len(found)
        carried = body(*inputs)
        found.append(Turn(count, inputs, carried, owners, cotangents, _caller(entry, count)))
    return Loop(params["body_jaxpr"], found, consts, len(carried), before)


def _caller(entry: Entry, count: int) -> Caller:
    stack = str(entry.equation.source_info.name_stack)
    stack = f"transpose({stack})" if entry.backward else stack
    return Caller((*entry.order, count), stack)


def _row_owner(owner: Owner | None, at: int, scanned: bool) -> Owner | None:
    """The layer that a row belongs to, where layers are stacked."""
    if owner is None or not scanned or len(owner.layers) == 1:
        return owner
    return owner._replace(layers=(owner.layers[at],))
