"""A traced function evaluated with some of its operations replaced, at whatever depth they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Replacement = Callable[[JaxprEqn, list[Any]], Sequence[Any]]

RULES = ("custom_jvp_call", "custom_vjp_call")
STOP = "stop_gradient"
INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")


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


def body_of(equation: JaxprEqn) -> ClosedJaxpr:
    """The function that a custom rule stands for."""
    return equation.params["call_jaxpr"]


def without_rules(equation: JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Evaluates the function of a custom rule, and those inside of it, without the rules."""
    body = body_of(equation)
    return evaluate(body.jaxpr, body.consts, args, STRIPPED)


STRIPPED: dict[str, Replacement] = dict.fromkeys(RULES, without_rules)


def equations(jaxpr: Jaxpr, into_rules: bool = False, into_while: bool = True) -> Iterator[JaxprEqn]:
    """Every equation that `evaluate` comes by, at whatever depth."""
    for equation in jaxpr.eqns:
        yield equation
        name = equation.primitive.name
        if (name in RULES and not into_rules) or (name == "while" and not into_while):
            continue
        for body in bodies(equation):
            yield from equations(body, into_rules, into_while)


def bodies(equation: JaxprEqn) -> list[Jaxpr]:
    """The functions inside an equation: of a loop, a branch, a jit."""
    params = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    return [_open(body)[0] for body in params if isinstance(body, ClosedJaxpr | Jaxpr)]


def _open(body: Any) -> tuple[Jaxpr, Sequence[Any]]:
    return (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())


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


def scan_parts(equation: JaxprEqn) -> tuple[int, int]:
    """How many of a scan's inputs are held constant, and how many are carried; the rest it runs over.

    Example:
      >>> run = lambda w, xs: jax.lax.scan(lambda c, x: (c * w + x, c), 0.0, xs)
      >>> scan_parts(jax.make_jaxpr(run)(2.0, jnp.ones(3)).eqns[-1])
      (1, 1)
    """
    inside = equation.params["jaxpr"].jaxpr
    # A value that is scanned over has one axis more outside than inside; how jax itself counts varies by version.
    carried = sum(_axes(o) == _axes(i) for o, i in zip(equation.outvars, inside.outvars, strict=True))
    scanned = sum(_axes(o) != _axes(i) for o, i in zip(equation.invars, inside.invars, strict=True))
    return len(equation.invars) - scanned - carried, carried


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


def _axes(atom: Any) -> int:
    return len(atom.aval.shape)


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


def narrowest(jaxpr: Jaxpr) -> float:
    """Machine epsilon of the narrowest floating-point type on the way to a function's results.

    Example:
      >>> import jax.numpy as jnp
      >>> with jax.enable_x64(True):
      ...     traced = jax.make_jaxpr(lambda x: (x.astype(jnp.float32), x)[1] * 2)(jnp.ones(1, jnp.float64))
      ...     narrowest(traced.jaxpr)
      2.220446049250313e-16
    """
    needed = {atom for atom in jaxpr.outvars if isinstance(atom, Var)}
    found = [float(jnp.finfo(jnp.float64).eps)]
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if isinstance(atom, Var))
            dtypes = [getattr(variable.aval, "dtype", None) for variable in equation.outvars]
            found += [float(jnp.finfo(dtype).eps) for dtype in dtypes if dtype and jnp.issubdtype(dtype, jnp.floating)]
            found += [narrowest(body) for body in bodies(equation)]
    return max(found)
