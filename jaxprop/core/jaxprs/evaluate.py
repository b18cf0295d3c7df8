"""Evaluates a traced function with some of its operations replaced, at whatever depth they lie. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxprop.core.jaxprs.walk import INLINED, RULES, _open, bodies, body_of, equations, scan_parts

Replacement = Callable[[JaxprEqn, list[Any]], Sequence[Any]]


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], replace: Mapping[str, Replacement]) -> list[Any]:
    """Evaluates a jaxpr with some primitives replaced, by name, also inside jit, remat, scan, while and cond.

    Args:
      jaxpr: what to evaluate.
      consts, args: values of its constants and arguments.
      replace: name of a primitive -> `(equation, arguments) -> results`.

    Returns:
      Its results.

    Example:
      >>> import jax.numpy as jnp
      >>> traced = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + 1))(0.0)
      >>> evaluate(traced.jaxpr, traced.consts, [2.0], {"sin": lambda equation, args: [3 * args[0]]})[0].item()
      7.0
    """
    values: dict[Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for equation in jaxpr.eqns:
        given = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
        results = _one(equation, given, replace)
        values.update(zip(equation.outvars, results, strict=True))
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in jaxpr.outvars]


def as_it_is(equation: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Evaluates one equation, with its own rules.

    Example:
      >>> traced = jax.make_jaxpr(jax.numpy.sin)(0.0)
      >>> as_it_is(traced.eqns[0], [0.0])[0].item()
      0.0
    """
    primitive = equation.primitive
    results = primitive.bind(*args, **primitive.get_bind_params(equation.params))
    return results if primitive.multiple_results else [results]


def without_rules(equation: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Evaluates the function of a custom rule, and those inside of it, without the rules."""
    body = body_of(equation)
    return evaluate(body.jaxpr, body.consts, args, STRIPPED)


STRIPPED: dict[str, Replacement] = dict.fromkeys(RULES, without_rules)


def _one(equation: JaxprEqn, args: list[Any], replace: Mapping[str, Replacement]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in replace:
        return replace[name](equation, args)
    if not any(inner.primitive.name in replace for body in bodies(equation) for inner in equations(body)):
        return as_it_is(equation, args)
    if name in INLINED:
        return evaluate(*_open(params.get("jaxpr", params.get("call_jaxpr"))), args, replace)
    if name == "scan":
        return _scan(equation, args, replace)
    if name == "while":
        return _while(equation, args, replace)
    if name == "cond":
        branches = [_function(branch, replace) for branch in params["branches"]]
        return jax.lax.switch(args[0], branches, *args[1:])
    return as_it_is(equation, args)


def _function(closed: ClosedJaxpr, replace: Mapping[str, Replacement]) -> Callable[..., list[Any]]:
    return lambda *args: evaluate(closed.jaxpr, closed.consts, args, replace)


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
