"""The arrays that a function's taps are used on, taken out of its trace. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprop.core import taps
from jaxprop.core.forms import layers_apart
from jaxprop.core.jaxprs import evaluate, walk


def outside_loops(traced: Any) -> list[Any]:
    """Returns the places of taps that no loop or branch has any use of, so that each stands for one array, in order.

    Args:
      traced: the jaxpr of `jaxprop.core.taps.find`.
    """
    inside, places = set(), []
    for equation, callers in walk.equations_and_callers(traced.jaxpr):
        name = taps.name_of(equation)
        if name is None:
            continue
        if any(caller.primitive.name in ("scan", "while", "cond") for caller in callers):
            inside.add(name)
        else:
            places.append(equation)
    return [place for place in places if taps.name_of(place) not in inside]


def tapped_arrays(function: Callable[..., Any], *args: Any) -> tuple[list[str], Callable[..., list[jax.Array]]]:
    """Returns the names of a function's taps outside of loops, and a function of the same arguments that gives arrays.

    A tap that is used several times has its name several times.

    Args:
      function: any pure function.
      *args: its arguments, or their shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> names, arrays = tapped_arrays(lambda x: taps.tap(2 * x, "twice") + 1, jnp.ones(2))
      >>> names, [array.tolist() for array in arrays(jnp.ones(2))]
      (['twice'], [[2.0, 2.0]])
    """
    with layers_apart():  # in a scan, no activation of a layer is outside
        _, traced = taps.find(function, *args)
    places = outside_loops(traced)
    followed = {id(place) for place in places}

    def arrays(*args: Any) -> list[jax.Array]:
        seen: list[jax.Array] = []

        def pass_on(equation: Any, given: list[Any]) -> Any:
            if id(equation) in followed:
                seen.append(given[0])
            return evaluate.bind(equation, given)

        evaluate.evaluate(traced, jax.tree.leaves(args), {walk.VJP_RULE: pass_on})
        return seen

    return [str(taps.name_of(place)) for place in places], arrays
