"""Evaluates a traced function with some of its operations replaced, at whatever depth they lie. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxprop.core.jaxprs.walk import CALLS, RULES, bodies, body_of, equations, scan_parts

V = TypeVar("V")
Replacement = Callable[[JaxprEqn, list[Any]], Sequence[Any]]


def run(
    traced: ClosedJaxpr,
    args: Sequence[V],
    apply: Callable[[JaxprEqn, list[V]], Sequence[V]],
    constant: Callable[[Any], V],
) -> list[V]:
    """Runs the equations of a jaxpr in order, on whatever stands for the values of its variables.

    Args:
      traced: what to run.
      args: one for each of its inputs.
      apply: `(equation, inputs) -> outputs`.
      constant: turns a literal or a constant of the jaxpr into such a value.

    Returns:
      Its outputs.

    Example:
      >>> traced = jax.make_jaxpr(lambda x: x * 2 + x)(1.0)
      >>> run(traced, ["x"], lambda equation, inputs: ["(" + f" {equation.primitive} ".join(inputs) + ")"], str)
      ['((x mul 2.0) add x)']
    """
    jaxpr = traced.jaxpr
    values = dict(zip(jaxpr.constvars, map(constant, traced.consts), strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> V:
        return constant(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation, last_used in zip(jaxpr.eqns, _last_uses(jaxpr), strict=True):
        outputs = apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
        for variable in last_used:  # arrays that nothing reads any more need not be held in memory
            values.pop(variable, None)
    return [read(atom) for atom in jaxpr.outvars]


@functools.lru_cache(maxsize=64)  # the body of a loop that is run turn by turn is run as often
def _last_uses(jaxpr: Jaxpr) -> list[list[Var]]:
    """For every equation the variables that nothing reads after it."""
    last: dict[Var, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        last |= {atom: i for atom in [*equation.invars, *equation.outvars] if isinstance(atom, Var)}
    kept = {atom for atom in jaxpr.outvars if isinstance(atom, Var)}
    found: list[list[Var]] = [[] for _ in jaxpr.eqns]
    for variable, i in last.items():
        if variable not in kept:
            found[i].append(variable)
    return found


def bind(equation: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Applies an equation's primitive to arrays, in the context that it was traced in.

    Example:
      >>> traced = jax.make_jaxpr(jax.numpy.sin)(0.0)
      >>> bind(traced.eqns[0], [0.0])[0].item()
      0.0
    """
    primitive = equation.primitive
    with equation.ctx.manager:
        outputs = primitive.bind(*args, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def evaluate(traced: ClosedJaxpr, args: Sequence[Any], replace: Mapping[str, Replacement]) -> list[Any]:
    """Evaluates a jaxpr with some primitives replaced, by name, also inside jit, remat, scan, while and cond.

    Args:
      traced: what to evaluate.
      args: its inputs.
      replace: name of a primitive -> `(equation, inputs) -> outputs`.

    Returns:
      Its outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> traced = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1))(0.0)
      >>> evaluate(traced, [2.0], {"sin": lambda equation, args: [3 * args[0]]})[0].item()
      7.0
    """
    return run(traced, args, lambda equation, inputs: _apply(equation, inputs, replace), lambda value: value)


def inline(equation: JaxprEqn, args: Sequence[Any], replace: Mapping[str, Replacement]) -> list[Any]:
    """Evaluates the function that a call or a custom rule stands for.

    Example:
      >>> traced = jax.make_jaxpr(jax.nn.relu)(0.0)
      >>> inline(traced.eqns[0], [2.0], {})[0].item()
      2.0
    """
    body = body_of(equation)
    assert body is not None, equation.primitive.name
    return evaluate(body, args, replace)


def without_rules(equation: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Evaluates the function of a custom rule, and those inside of it, without the rules."""
    return inline(equation, args, STRIPPED)


STRIPPED: dict[str, Replacement] = dict.fromkeys(RULES, without_rules)


def _apply(equation: JaxprEqn, args: list[Any], replace: Mapping[str, Replacement]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in replace:
        return replace[name](equation, args)
    if not any(inner.primitive.name in replace for body in bodies(equation) for inner in equations(body, skip=RULES)):
        return bind(equation, args)
    if name in CALLS:
        return inline(equation, args, replace)
    if name == "scan":
        return _scan(equation, args, replace)
    if name == "while":
        return _while(equation, args, replace)
    if name == "cond":
        branches = [_function(branch, replace) for branch in params["branches"]]
        return jax.lax.switch(args[0], branches, *args[1:])
    return bind(equation, args)


def _function(traced: ClosedJaxpr, replace: Mapping[str, Replacement]) -> Callable[..., list[Any]]:
    return lambda *args: evaluate(traced, args, replace)


def _scan(equation: JaxprEqn, args: list[Any], replace: Mapping[str, Replacement]) -> list[Any]:
    params, body = equation.params, _function(equation.params["jaxpr"], replace)
    held, carried = scan_parts(equation)

    def turn(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body(*args[:held], *carry, *xs)
        return results[:carried], results[carried:]

    carry, stacked = jax.lax.scan(
        turn, args[held : held + carried], args[held + carried :], params["length"], params["reverse"]
    )
    return [*carry, *stacked]


def _while(equation: JaxprEqn, args: list[Any], replace: Mapping[str, Replacement]) -> list[Any]:
    params = equation.params
    goes_on, turn = _function(params["cond_jaxpr"], replace), _function(params["body_jaxpr"], replace)
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    return jax.lax.while_loop(
        lambda carry: goes_on(*args[:first], *carry)[0],
        lambda carry: turn(*args[first:second], *carry),
        args[second:],
    )
