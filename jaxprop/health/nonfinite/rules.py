"""The line inside a custom backward rule; jax books all that one does on the line that calls its function. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprop.core.jaxprs.sites import NOWHERE, Site, is_backward, site_of
from jaxprop.core.jaxprs.walk import VJP_RULE, equations, equations_and_callers


def site_in_rule(equation: JaxprEqn, site: Site, loss: ClosedJaxpr, gradient: ClosedJaxpr) -> Site:
    """Finds where in a custom backward rule an equation was written, by tracing the rule by itself.

    Args:
      equation: of the backward pass.
      site: the line it is booked on.
      loss: jaxpr of the loss.
      gradient: jaxpr that the equation is from.

    Returns:
      The line in the rule; `site` where no rule is called there, or the rule cannot be traced by itself.
    """
    rule = next((e for e in equations(loss) if e.primitive.name == VJP_RULE and site_of(e) == site), None)
    if rule is None:
        return site
    here = [e for e in _backward_equations(gradient) if _alike(e, equation) and site_of(e) == site]
    try:
        written = [e for e in equations(backward_jaxpr(rule)) if _alike(e, equation)]
    except Exception:  # of whatever the rule or a later jax does: the line of the call is an answer too
        return site
    at = next((i for i, e in enumerate(here) if e is equation), None)
    if at is None or not written:
        return site
    found = site_of(written[at % len(written)])
    return site if found == NOWHERE else found


def backward_jaxpr(rule: Any) -> ClosedJaxpr:
    """Traces the backward rule of an equation that calls a custom_vjp, in its own lines."""
    params = rule.primitive.get_bind_params(rule.params)
    _, forward, backward = params["subfuns"]
    consts = rule.params["num_consts"]

    def residuals(*primals: Any) -> list[Any]:
        found = forward.call_wrapped(*(x for i, primal in enumerate(primals) for x in (primal, i >= consts)))
        _, tree, handed_on = params["out_trees"]()  # residuals that are inputs are not returned once more
        count = tree.num_leaves - sum(i is not None for i in handed_on)
        own, outputs = iter(found[:count]), found[count:]
        return [*(next(own) if i is None else primals[i] for i in handed_on), *outputs]

    def run(*arrays: Any) -> None:
        backward.call_wrapped(*arrays)

    shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in rule.invars]
    return jax.make_jaxpr(run)(*jax.eval_shape(residuals, *shapes))


def _backward_equations(gradient: ClosedJaxpr) -> Iterator[JaxprEqn]:
    for equation, callers in equations_and_callers(gradient):
        if is_backward("/".join(str(e.source_info.name_stack) for e in (*callers, equation))):
            yield equation


def _alike(one: JaxprEqn, other: JaxprEqn) -> bool:
    return one.primitive is other.primitive and [v.aval for v in one.outvars] == [v.aval for v in other.outvars]
