"""Which arguments of a traced function a scan takes apart, row by row: layers stacked on their first axis. Pure."""

from __future__ import annotations

from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from jaxprop.core.jaxprs.walk import body_of

# What hands an argument on as it is, entry for entry.
SAME = frozenset({"convert_element_type", "copy", "sharding_constraint", "optimization_barrier"})


def scan_lengths(jaxpr: ClosedJaxpr, count: int) -> list[int | None]:
    """Finds the arguments that a scan runs over, through casts, jit, remat and custom derivatives.

    Args:
      jaxpr: of the whole function, from `jax.make_jaxpr`.
      count: how many of its first arguments to look at.

    Returns:
      For each the length of the scan that takes it apart on its first axis, or None.

    Example:
      >>> import jax
      >>> jaxpr = jax.make_jaxpr(lambda w, b: jax.lax.scan(lambda c, w: (c * w + b, None), 1.0, w)[0])(
      ...     jax.numpy.ones(3), 2.0
      ... )
      >>> scan_lengths(jaxpr, 2)
      [3, None]
    """
    inner = jaxpr.jaxpr
    lengths: dict[int, int] = {}
    _follow(inner, {var: i for i, var in enumerate(inner.invars[:count])}, lengths)
    return [lengths.get(i) for i in range(count)]


def _follow(jaxpr: Any, arguments: dict[Any, int], lengths: dict[int, int]) -> None:
    """Walks the equations that arguments flow into, and books the scans over them."""
    known = dict(arguments)
    for equation in jaxpr.eqns:
        flowing = {i: known[v] for i, v in enumerate(equation.invars) if _is_known(v, known)}
        if not flowing:
            continue
        name = equation.primitive.name
        if name in SAME:
            known |= {
                out: known[v] for v, out in zip(equation.invars, equation.outvars, strict=False) if _is_known(v, known)
            }
        elif name == "scan":
            _book_scan(equation, flowing, lengths)
        else:
            body = body_of(equation)  # of calls, custom rules and others that hand their inputs on one by one
            if body is not None and len(body.jaxpr.invars) == len(equation.invars):
                _follow(body.jaxpr, {body.jaxpr.invars[i]: argument for i, argument in flowing.items()}, lengths)


def _book_scan(equation: Any, flowing: dict[int, int], lengths: dict[int, int]) -> None:
    # Constants and carries keep their rank inside the body, what is scanned over loses its first axis.
    body = equation.params["jaxpr"].jaxpr
    nested = {}
    for i, argument in flowing.items():
        outer, inner = equation.invars[i].aval, body.invars[i].aval
        if len(outer.shape) == len(inner.shape) + 1:
            lengths.setdefault(argument, outer.shape[0])
        else:
            nested[body.invars[i]] = argument
    _follow(body, nested, lengths)


def _is_known(atom: Any, known: dict[Any, int]) -> bool:
    return not isinstance(atom, Literal) and atom in known
