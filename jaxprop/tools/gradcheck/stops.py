"""Which `stop_gradient` accounts for a gradient that differs from the loss's own slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxprop.core.jaxprs import evaluate, walk
from jaxprop.core.jaxprs.sites import NOWHERE, Site, site_of
from jaxprop.tools.gradcheck.lines import Lines, Ray
from jaxprop.tools.gradcheck.report import Entry, Stop

MOST = 16  # lines that are tried, each with a program of its own


def explaining_stops(lines: Lines, rays: Sequence[Ray], entries: Sequence[Entry]) -> tuple[Stop, ...]:
    """Returns the lines without whose `stop_gradient` forward mode gives another derivative.

    Args:
      lines: the loss.
      rays: where it was found wrong.
      entries: what was found there.

    Returns:
      The lines; none where forward mode is no wronger than reverse mode, which a custom rule would explain.
    """
    # The same forward and backward, and another slope: what both of them are told to take for a constant.
    suspects = [i for i, e in enumerate(entries) if abs(e.forward - e.reverse) <= e.tolerance]
    if not suspects:
        return ()
    worst = max(suspects, key=lambda i: entries[i].error / (entries[i].tolerance or 1.0))
    sites = {site_of(e) for e in walk.equations(lines.traced) if e.primitive.name == walk.STOP} - {NOWHERE}
    scale = rays[worst].scale if entries[worst].place is not None else 1.0
    found = []
    for site in sorted(sites, key=lambda site: site.place)[:MOST]:
        (slope,) = lines.slopes([rays[worst]], f"without {site}", _without(site))
        if abs(slope / scale - entries[worst].forward) > entries[worst].tolerance:
            found.append(Stop(site.place, float(slope / scale)))
    return tuple(found)


def _without(site: Site) -> dict[str, evaluate.Replacement]:
    def passed(equation: JaxprEqn, args: list[Any]) -> Sequence[Any]:
        return args if site_of(equation) == site else evaluate.bind(equation, args)

    replace: dict[str, evaluate.Replacement] = {walk.STOP: passed}
    replace |= dict.fromkeys(walk.RULES, lambda equation, args: evaluate.inline(equation, args, replace))
    return replace
