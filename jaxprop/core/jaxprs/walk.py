"""Walks the equations of a traced function, at whatever depth they lie. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

RULES = ("custom_jvp_call", "custom_vjp_call")
STOP = "stop_gradient"
INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")


def body_of(equation: JaxprEqn) -> ClosedJaxpr:
    """The function that a custom rule stands for."""
    return equation.params["call_jaxpr"]


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


def _axes(atom: Any) -> int:
    return len(atom.aval.shape)


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
