"""Walks the equations of a traced function, at whatever depth they lie. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

# Primitives that run a function on exactly their own inputs. The name of remat differs between versions of jax.
CALLS = ("call", "checkpoint", "closed_call", "jit", "remat", "remat2")
VJP_RULE = "custom_vjp_call"
RULES = ("custom_jvp_call", VJP_RULE)  # these run one too, but differentiate it by a rule of its own
LOOPS = ("scan", "while")
STOP = "stop_gradient"
# Under which parameter of an equation the function that it runs lies.
BODIES = ("jaxpr", "call_jaxpr")


def closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """Returns a jaxpr with its constants, of which an open one has none.

    Example:
      >>> traced = jax.make_jaxpr(jnp.sin)(0.0)
      >>> closed(traced) is traced, len(closed(traced.jaxpr).consts)
      (True, 0)
    """
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def bodies(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """Returns every function inside an equation: of a loop, a branch, a call.

    Example:
      >>> traced = jax.make_jaxpr(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))(0.0)
      >>> [body.eqns[0].primitive.name for body in bodies(traced.eqns[-1])]
      ['cos', 'sin']
    """
    params = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    return [closed(body) for body in params if isinstance(body, ClosedJaxpr | Jaxpr)]


def body_of(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Returns the function that a call, a custom rule or a scan runs; None for equations that run none or several.

    Example:
      >>> traced = jax.make_jaxpr(jax.jit(jnp.sin))(0.0)
      >>> body_of(traced.eqns[0]).eqns[0].primitive.name
      'sin'
    """
    return next((closed(equation.params[name]) for name in BODIES if name in equation.params), None)


def is_call(equation: JaxprEqn) -> bool:
    """Whether an equation does nothing but run a function on its own inputs.

    Example:
      >>> is_call(jax.make_jaxpr(jax.jit(jnp.sin))(0.0).eqns[0]), is_call(jax.make_jaxpr(jnp.sin)(0.0).eqns[0])
      (True, False)
    """
    return equation.primitive.name in CALLS or equation.primitive.name in RULES


def equations(jaxpr: Jaxpr | ClosedJaxpr, skip: Collection[str] = ()) -> Iterator[JaxprEqn]:
    """Yields every equation of a jaxpr and of those inside it, in the order in which they are written.

    Args:
      jaxpr: where to begin.
      skip: names of primitives that are yielded, but not looked into.

    Example:
      >>> traced = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) * 2))(1.0)
      >>> [equation.primitive.name for equation in equations(traced)]
      ['jit', 'sin', 'mul']
      >>> [equation.primitive.name for equation in equations(traced, skip=["jit"])]
      ['jit']
    """
    return (equation for equation, _ in equations_and_callers(jaxpr, skip))


def equations_and_callers(
    jaxpr: Jaxpr | ClosedJaxpr, skip: Collection[str] = (), callers: tuple[JaxprEqn, ...] = ()
) -> Iterator[tuple[JaxprEqn, tuple[JaxprEqn, ...]]]:
    """Yields what `equations` does, each with the equations that it lies in, the outermost first.

    Example:
      >>> traced = jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x)))(1.0)
      >>> [[caller.primitive.name for caller in callers] for _, callers in equations_and_callers(traced)]
      [[], ['jit']]
    """
    for equation in jaxpr.eqns:
        yield equation, callers
        if equation.primitive.name not in skip:
            for body in bodies(equation):
                yield from equations_and_callers(body, skip, (*callers, equation))


def scan_parts(equation: JaxprEqn) -> tuple[int, int]:
    """Returns how many of a scan's inputs are held constant, and how many are carried; the rest it runs over.

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


def narrowest(jaxpr: Jaxpr | ClosedJaxpr, inputs: Collection[int] | None = None) -> float:
    """Returns the machine epsilon of the narrowest floating-point type on the way to a function's results.

    Args:
      jaxpr: the function.
      inputs: positions of those inputs that the way begins at; None for all of them and for constants. What depends on
        none of these is the same in every evaluation that changes nothing else, and so is its rounding.

    Example:
      >>> with jax.enable_x64(True):
      ...     traced = jax.make_jaxpr(lambda x: (x.astype(jnp.float32), x)[1] * 2)(jnp.ones(1, jnp.float64))
      ...     narrowest(traced)
      2.220446049250313e-16
    """
    whole = closed(jaxpr).jaxpr
    needed = {atom for atom in whole.outvars if isinstance(atom, Var)}
    reached = None if inputs is None else _reached(whole, inputs)
    found = [float(jnp.finfo(jnp.float64).eps)]
    for equation in reversed(whole.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if isinstance(atom, Var))
            if reached is not None and reached.isdisjoint(equation.outvars):
                continue
            dtypes = [getattr(variable.aval, "dtype", None) for variable in equation.outvars]
            found += [float(jnp.finfo(dtype).eps) for dtype in dtypes if dtype and jnp.issubdtype(dtype, jnp.floating)]
            given = None  # of a loop or a branch, whose inputs are others than its body's
            if reached is not None and is_call(equation):
                given = [i for i, atom in enumerate(equation.invars) if isinstance(atom, Var) and atom in reached]
            found += [narrowest(body, given) for body in bodies(equation)]
    return max(found)


def _reached(jaxpr: Jaxpr, inputs: Collection[int]) -> set[Var]:
    """The variables that depend on some of the inputs."""
    reached = {jaxpr.invars[i] for i in inputs}
    for equation in jaxpr.eqns:
        if any(isinstance(atom, Var) and atom in reached for atom in equation.invars):
            reached.update(equation.outvars)
    return reached
