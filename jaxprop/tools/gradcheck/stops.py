"""Which `stop_gradient` accounts for a gradient that differs from the loss's own slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxprop.core.jaxprs import evaluate, walk
from jaxprop.core.jaxprs.sites import call_place
from jaxprop.tools.gradcheck.lines import Lines, Ray
from jaxprop.tools.gradcheck.report import Entry, Stop

MOST = 16  # places that are tried, each with a program of its own


def find(lines: Lines, rays: Sequence[Ray], entries: Sequence[Entry]) -> tuple[Stop, ...]:
    """Returns the places without whose `stop_gradient` forward mode gives another derivative.

    Args:
      lines: the loss.
      rays: where it was found wrong.
      entries: what was found there.

    Returns:
      The places; none where forward mode is no wronger than reverse mode, which a custom rule would explain.
    """
    # The same forward and backward, and another slope: what both of them are told to take for a constant.
    suspects = [i for i, e in enumerate(entries) if abs(e.forward - e.reverse) <= e.tolerance]
    if not suspects:
        return ()
    worst = max(suspects, key=lambda i: entries[i].error / (entries[i].tolerance or 1.0))
    places = {
        call_place(e) for e in walk.equations(lines.traced.jaxpr, into_rules=True) if e.primitive.name == walk.STOP
    }
    scale = rays[worst].scale if entries[worst].place is not None else 1.0
    found = []
    for place in sorted(places)[:MOST]:
        (slope,) = lines.slopes([rays[worst]], place, {**evaluate.STRIPPED, **_without(place)})
        if abs(slope / scale - entries[worst].forward) > entries[worst].tolerance:
            found.append(Stop(place, float(slope / scale)))
    return tuple(found)


def _without(place: str) -> dict[str, evaluate.Replacement]:
    def passed(equation: JaxprEqn, args: list[Any]) -> Sequence[Any]:
        return args if call_place(equation) == place else evaluate.as_it_is(equation, args)

    replace: dict[str, evaluate.Replacement] = {walk.STOP: passed}

    def inside(equation: JaxprEqn, args: list[Any]) -> Sequence[Any]:
        body = walk.body_of(equation)
        return evaluate.evaluate(body.jaxpr, body.consts, args, replace)

    replace |= dict.fromkeys(walk.RULES, inside)
    return replace
