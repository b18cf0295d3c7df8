"""Runs a jaxpr one equation at a time and writes down where values stop being finite. Pure.

Calls (jit, remat, custom derivatives) and the branch that a cond takes are run equation by equation too. Loops are run
whole, and opened later, if what went wrong passes through them: see `jaxprop.health.nonfinite.blame`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprop.core.jaxprs import evaluate
from jaxprop.core.jaxprs.sites import NOWHERE, Site, is_backward, is_library_function, scope_of, site_of
from jaxprop.core.jaxprs.walk import body_of, closed, is_call

Order = tuple[int, ...]  # of execution, a number for each loop that an equation stands in


class Owner(NamedTuple):
    """The layer that a value comes from.

    Args:
      layers: its name; several for parameters stacked on their first axis.
      since: when its parameters came in, so that of two layers the later one is known; None for the parameters
        themselves, and what is made of nothing else.
    """

    layers: tuple[str, ...]
    since: int | None

    @property
    def name(self) -> str:
        """The layer's name; of several, what they have in common."""
        return self.layers[0] if len(self.layers) == 1 else self.layers[0].rpartition("[")[0]


class Value(NamedTuple):
    """A value while the jaxpr runs.

    Args:
      array: it.
      slot: tells values apart; None for what was written in the program itself.
      owner: the layer it comes from.
      cotangent: whether it is one: what it is multiplied by in the backward pass tells the layer, not it.
    """

    array: Any
    slot: int | None
    owner: Owner | None
    cotangent: bool = False


class Entry(NamedTuple):
    """An equation that gave something non-finite, with its operands as it met them."""

    order: Order
    equation: JaxprEqn
    site: Site
    scope: str
    backward: bool
    owner: Owner | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def primitive(self) -> str:
        return self.equation.primitive.name


class Caller(NamedTuple):
    """What an equation inherits from the call it stands in.

    Args:
      order: of the call.
      stack: its name stack.
      site: its line, for equations of functions that a library wrote.
    """

    order: Order = ()
    stack: str = ""
    site: Site | None = None


class Interpreter:
    """Runs jaxprs; what is not finite ends up in `tape`, in the order of execution.

    Args:
      turned_back: whether the backward pass has begun before.
    """

    def __init__(self, turned_back: bool = False) -> None:
        self.tape: list[Entry] = []
        self._slots, self._orders = itertools.count(), itertools.count()
        self._turned_back = turned_back

    def arguments(
        self, arrays: Sequence[Any], owners: Sequence[Owner | None], cotangents: Sequence[bool] | None = None
    ) -> list[Value]:
        """Gives arguments their slots."""
        cotangents = [False] * len(arrays) if cotangents is None else cotangents
        given = zip(arrays, owners, cotangents, strict=True)
        return [Value(array, next(self._slots), owner, cotangent) for array, owner, cotangent in given]

    def run(self, body: ClosedJaxpr, arguments: Sequence[Value], caller: Caller) -> list[Value]:
        """Runs a jaxpr.

        Args:
          body: what to run.
          arguments: its inputs.
          caller: what it was called from.

        Returns:
          Its outputs.
        """

        def apply(equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
            return self._run_equation(equation, inputs, caller)

        return evaluate.run(body, arguments, apply, constant=lambda array: Value(array, None, None))

    def _run_equation(self, equation: JaxprEqn, inputs: list[Value], caller: Caller) -> list[Value]:
        stack = f"{caller.stack}/{equation.source_info.name_stack}"
        called = callee(equation, inputs)
        if called is not None:
            body, arguments = called
            site = caller.site or site_of(equation)
            inner = Caller(caller.order, stack, site if is_library_function(body.jaxpr) else caller.site)
            return self.run(body, arguments, inner)
        order, backward = (*caller.order, next(self._orders)), is_backward(stack)
        owner = owner_of(inputs, order[-1])
        # The first equation of the backward pass makes a cotangent of the loss's own, which is a plain 1.
        cotangent = any(value.cotangent for value in inputs) or (backward and not self._turned_back)
        self._turned_back = self._turned_back or backward
        arrays = evaluate.bind(equation, [value.array for value in inputs])
        outputs = [Value(array, next(self._slots), owner, cotangent) for array in arrays]
        if not all(is_finite(value.array) for value in outputs):
            site = caller.site or site_of(equation)
            site = site if site != NOWHERE or caller.site is None else caller.site
            found = Entry(order, equation, site, scope_of(stack), backward, owner, tuple(inputs), tuple(outputs))
            self.tape.append(found)
        return outputs


def callee(equation: JaxprEqn, inputs: Sequence[Value]) -> tuple[ClosedJaxpr, Sequence[Value]] | None:
    """Returns the jaxpr that an equation is nothing but a call of, and its inputs, or None."""
    params = equation.params
    if equation.primitive.name == "cond":
        branches = params["branches"]
        return closed(branches[int(np.clip(int(inputs[0].array), 0, len(branches) - 1))]), inputs[1:]
    if equation.primitive.name == "custom_linear_solve":
        matvec, vecmat, solve, _ = params["const_lengths"]
        before, right = matvec + vecmat, sum(params["const_lengths"])
        return closed(params["jaxprs"].solve), [*inputs[before : before + solve], *inputs[right:]]
    # Custom derivatives have done their part before a jaxpr is run.
    body = body_of(equation) if is_call(equation) else None
    return None if body is None else (body, inputs)


def is_finite(array: Any) -> bool:
    """Whether nothing in an array is NaN or infinite; what holds no floating-point numbers is finite.

    Example:
      >>> is_finite(jnp.ones(3)), is_finite(jnp.array([1.0, jnp.nan])), is_finite(jnp.arange(3))
      (True, False, True)
    """
    return not bad_entries(array).any()


def bad_entries(array: Any) -> np.ndarray:
    """Returns which entries are NaN or infinite, as booleans of the array's shape.

    Example:
      >>> bad_entries(jnp.array([1.0, -jnp.inf])).tolist()
      [False, True]
    """
    if not jnp.issubdtype(jnp.result_type(array), jnp.inexact):
        return np.zeros(np.shape(array), bool)
    return ~np.isfinite(np.asarray(array))


def owner_of(inputs: Sequence[Value], now: int) -> Owner | None:
    """The layer that an equation belongs to: that of the parameters it reads, or of what it goes on with.

    Args:
      inputs: of the equation.
      now: when it is run.
    """
    owned = [(value.owner, value.cotangent) for value in inputs if value.owner is not None]
    owners = [owner for owner, cotangent in owned if not cotangent] or [owner for owner, _ in owned]
    fresh = [owner for owner in owners if owner.since is None]
    if fresh:
        alone = len(fresh) == sum(value.slot is not None for value in inputs)
        return fresh[-1] if alone else fresh[-1]._replace(since=now)
    return max(owners, key=lambda owner: owner.since or 0, default=None)
