"""Runs a jaxpr one equation at a time and writes down where values stop being finite. Pure.

Calls (jit, remat, custom derivatives) and the branch that a cond takes are run equation by equation too. Loops are run
whole, and opened later, if what went wrong passes through them: see `jaxprop.health.nonfinite.blame`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprop.core.jaxprs.scans import BODIES
from jaxprop.core.jaxprs.sites import NOWHERE, Site, is_backward, is_library_function, scope_of, site_of

# What only calls a jaxpr, with its own inputs; custom derivatives have done their part before a jaxpr is run.
_CALLS = """
    call checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit remat remat2
"""
CALLS = frozenset(_CALLS.split())
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
    equation: Any
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

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], caller: Caller) -> list[Value]:
        """Runs a jaxpr.

        Args:
          jaxpr: an open one.
          consts, arguments: its inputs.
          caller: what it was called from.

        Returns:
          Its outputs.
        """
        known = dict(zip(jaxpr.constvars, [Value(const, None, None) for const in consts], strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return Value(atom.val, None, None) if isinstance(atom, core.Literal) else known[atom]

        for equation, over in zip(jaxpr.eqns, _last_uses(jaxpr), strict=True):
            outputs = self._run_equation(equation, [read(atom) for atom in equation.invars], caller)
            known |= dict(zip(equation.outvars, outputs, strict=True))
            for var in over:
                known.pop(var, None)
        return [read(atom) for atom in jaxpr.outvars]

    def _run_equation(self, equation: Any, inputs: list[Value], caller: Caller) -> list[Value]:
        stack = f"{caller.stack}/{equation.source_info.name_stack}"
        called = callee(equation, inputs)
        if called is not None:
            body, arguments = called
            site = caller.site or site_of(equation)
            inner = Caller(caller.order, stack, site if is_library_function(body.jaxpr) else caller.site)
            return self.run(body.jaxpr, body.consts, arguments, inner)
        order, backward = (*caller.order, next(self._orders)), is_backward(stack)
        owner = owner_of(inputs, order[-1])
        # The first equation of the backward pass makes a cotangent of the loss's own, which is a plain 1.
        cotangent = any(value.cotangent for value in inputs) or (backward and not self._turned_back)
        self._turned_back = self._turned_back or backward
        outputs = [Value(array, next(self._slots), owner, cotangent) for array in bind(equation, *_arrays(inputs))]
        if not all(is_finite(value.array) for value in outputs):
            site = caller.site or site_of(equation)
            site = site if site != NOWHERE or caller.site is None else caller.site
            found = Entry(order, equation, site, scope_of(stack), backward, owner, tuple(inputs), tuple(outputs))
            self.tape.append(found)
        return outputs


def callee(equation: Any, inputs: Sequence[Value]) -> tuple[Any, Sequence[Value]] | None:
    """Returns the closed jaxpr that an equation is nothing but a call of, and its inputs, or None."""
    if equation.primitive.name == "cond":
        branches = equation.params["branches"]
        return _closed(branches[int(np.clip(int(inputs[0].array), 0, len(branches) - 1))]), inputs[1:]
    if equation.primitive.name == "custom_linear_solve":
        matvec, vecmat, solve, _ = equation.params["const_lengths"]
        before, right = matvec + vecmat, sum(equation.params["const_lengths"])
        return _closed(equation.params["jaxprs"].solve), [*inputs[before : before + solve], *inputs[right:]]
    if not is_call(equation):
        return None
    return _closed(next(equation.params[name] for name in BODIES if name in equation.params)), inputs


def is_call(equation: Any) -> bool:
    """Whether an equation does nothing but run a jaxpr on its own inputs."""
    return equation.primitive.name in CALLS


def bind(equation: Any, *arrays: Any) -> list[Any]:
    """Applies an equation's primitive to arrays; returns its outputs."""
    primitive = equation.primitive
    with equation.ctx.manager:
        found = primitive.bind(*arrays, **primitive.get_bind_params(equation.params))
    return list(found) if primitive.multiple_results else [found]


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


def _arrays(values: Sequence[Value]) -> list[Any]:
    return [value.array for value in values]


def _closed(jaxpr: Any) -> Any:
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


@functools.lru_cache(maxsize=64)  # a loop's body is run once a turn
def _last_uses(jaxpr: Any) -> list[list[Any]]:
    """For every equation the variables that nothing reads after it, so that they need not be kept."""
    last: dict[Any, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        last |= {var: i for var in [*equation.invars, *equation.outvars] if isinstance(var, core.Var)}
    kept = {var for var in jaxpr.outvars if isinstance(var, core.Var)}
    over: list[list[Any]] = [[] for _ in jaxpr.eqns]
    for var, i in last.items():
        if var not in kept:
            over[i].append(var)
    return over
