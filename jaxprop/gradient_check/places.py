"""Where in the user's files an operation of a traced function comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax

_LIBRARY = str(Path(jax.__file__).parent)
_PLACE = re.compile(r"^(?P<name>.*) at (?P<place>.*:\d+)$", re.DOTALL)


def call_place(equation: Any) -> str:
    """Returns `file:line` of the innermost call outside jax itself that an equation comes from, or an empty string.

    Example:
      >>> call_place(jax.make_jaxpr(lambda x: 2 * x)(0.0).eqns[0])
      '<doctest jaxprop.gradient_check.places.call_place[0]>:1'
    """
    traceback = equation.source_info.traceback
    frames = traceback.frames if traceback is not None else ()
    own = (f for f in frames if not f.file_name.startswith(_LIBRARY))
    return next((f"{f.file_name}:{f.line_num}" for f in own), "")


def rule_place(equation: Any) -> str:
    """Returns `file:line` of the rule of a `custom_vjp` or `custom_jvp` call: its backward pass, or its jvp.

    Example:
      >>> traced = jax.make_jaxpr(jax.nn.relu)(0.0)
      >>> rule = next(e for e in traced.jaxpr.eqns[0].params["jaxpr"].eqns) if traced.eqns[0].params.get("jaxpr") else (
      ...     traced.eqns[0])
      >>> rule_place(rule).rpartition(":")[2].isdigit()
      True
    """
    # What jax wraps a rule in knows the rule's place, and so does the function it stands for.
    params = equation.params
    known = [params.get("bwd"), params.get("jvp_jaxpr_fun"), params["call_jaxpr"].jaxpr]
    for holder in known:
        match = _PLACE.match(getattr(getattr(holder, "debug_info", None), "func_src_info", None) or "")
        if match and not match["place"].startswith(f"{_LIBRARY}/_src/custom_derivatives"):
            return match["place"]
    return call_place(equation)


def rule_name(equation: Any) -> str:
    """Returns the name of the function that a custom rule stands for.

    Example:
      >>> square = jax.custom_vjp(lambda x: x * x)
      >>> square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
      >>> rule_name(jax.make_jaxpr(square)(1.0).eqns[0])
      '<lambda>'
    """
    info = getattr(equation.params["call_jaxpr"].jaxpr, "debug_info", None)
    return str(equation.params.get("name") or getattr(info, "func_name", None) or "a function")
