"""Where a traced function first uses its arguments, and which of them a scan takes apart row by row. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Literal

from jaxprop.core.jaxprs.walk import body_of

# What hands an argument on as it is, entry for entry.
SAME = frozenset({"convert_element_type", "copy", "sharding_constraint", "optimization_barrier"})


class Use(NamedTuple):
    """How a function uses an argument.

    Args:
      at: place of the first equation that computes with it, among those of the function; None where none does.
      rows: length of the scan that takes it apart on its first axis, or None.
      inside: where it is taken apart, place of its first use in a turn of that scan; else 0.
    """

    at: int | None = None
    rows: int | None = None
    inside: int = 0


def uses(jaxpr: ClosedJaxpr, count: int) -> list[Use]:
    """Finds where arguments are used first, through casts, jit, remat, custom derivatives and scans.

    Args:
      jaxpr: of the whole function, from `jax.make_jaxpr`.
      count: how many of its first arguments to look at.

    Returns:
      One `Use` for each.

    Example:
      >>> import jax
      >>> jaxpr = jax.make_jaxpr(lambda w, b: jax.lax.scan(lambda c, w: (c * w + b, None), 1.0, w)[0])(
      ...     jax.numpy.ones(3), 2.0
      ... )
      >>> w, b = uses(jaxpr, 2)
      >>> (w.rows, b.rows), w.at < b.at
      ((3, None), True)
    """
    inner = jaxpr.jaxpr
    found: dict[int, Use] = {}
    _follow(inner, {var: i for i, var in enumerate(inner.invars[:count])}, found, 0)
    return [found.get(i, Use()) for i in range(count)]


def _follow(jaxpr: Any, arguments: dict[Any, int], found: dict[int, Use], at: int) -> tuple[int, dict[Any, int]]:
    """Walks the equations that arguments flow into, counted from `at` on, and books first uses.

    Returns:
      The count, and the variables that are one of the arguments as it is.
    """
    known = dict(arguments)
    for equation in jaxpr.eqns:
        at += 1
        flowing = {i: known[v] for i, v in enumerate(equation.invars) if _is_known(v, known)}
        if not flowing:
            continue
        name, body = equation.primitive.name, body_of(equation)
        if name in SAME:
            known |= {
                out: known[v] for v, out in zip(equation.invars, equation.outvars, strict=False) if _is_known(v, known)
            }
        elif name == "scan":
            at = _book_scan(equation, flowing, found, at)
        elif body is not None and len(body.jaxpr.invars) == len(equation.invars):
            # Calls, custom rules and others that hand their inputs on one by one; some, such as taps, return them.
            within = {body.jaxpr.invars[i]: argument for i, argument in flowing.items()}
            at, passed = _follow(body.jaxpr, within, found, at)
            outputs = zip(body.jaxpr.outvars, equation.outvars, strict=False)
            known |= {out: passed[v] for v, out in outputs if _is_known(v, passed)}
        else:
            for argument in flowing.values():
                found.setdefault(argument, Use(at))
    return at, known


def _book_scan(equation: Any, flowing: dict[int, int], found: dict[int, Use], at: int) -> int:
    # Constants and carries keep their rank inside the body, what is scanned over loses its first axis.
    body = equation.params["jaxpr"].jaxpr
    rows = {
        argument: equation.invars[i].aval.shape[0]
        for i, argument in flowing.items()
        if len(equation.invars[i].aval.shape) == len(body.invars[i].aval.shape) + 1
    }
    inside: dict[int, Use] = {}
    end, _ = _follow(body, {body.invars[i]: argument for i, argument in flowing.items()}, inside, at)
    for argument, use in inside.items():
        taken_apart = Use(at, rows[argument], (use.at or at) - at) if argument in rows else use
        found.setdefault(argument, taken_apart)
    return end


def _is_known(atom: Any, known: dict[Any, int]) -> bool:
    return not isinstance(atom, Literal) and atom in known
