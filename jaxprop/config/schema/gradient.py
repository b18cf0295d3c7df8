"""The section `gradient`: the backward pass, or an estimate from forward passes. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from jaxprop.config.schema.base import Positive, PositiveFloat, Section

# What each estimator takes besides `chunk`.
TAKES = {
    "backprop": (),
    "forward": ("samples",),
    "spsa": ("samples", "sigma"),
    "evolution": ("population", "sigma", "shaping"),
}


class Gradient(Section):
    """Where the gradient comes from. What follows it, such as clipping, the optimizer and records, stays the same."""

    estimator: Literal["backprop", "forward", "spsa", "evolution"] = Field(
        "backprop",
        description="backprop: the gradient, by the backward pass; forward: slopes along random directions by "
        "forward-mode differentiation; spsa: by central differences of the loss, which needs no derivative; evolution: "
        "an evolution strategy by evosax, the same",
    )
    samples: Positive | None = Field(
        None, description="number of random directions in a step; default: 1; of forward and spsa"
    )
    population: Positive | None = Field(
        None, description="number of points in a step, an even one; default: 64; of evolution"
    )
    sigma: PositiveFloat | None = Field(
        None,
        description="distance to the points at which the loss is compared, for each parameter; default: 1e-3 for spsa, "
        "0.02 for evolution",
    )
    shaping: Literal["ranks", "none"] | None = Field(
        None, description="what the points are weighted by: their ranks, or their losses; default: ranks; of evolution"
    )
    chunk: Positive | None = Field(
        None,
        description="number of directions or points that are computed with at a time, a divisor of all; more take more "
        "memory; default: 1",
    )

    def settings(self) -> dict[str, Any]:
        """Returns what is set of the estimator.

        Example:
          >>> Gradient(estimator="spsa", samples=4).settings()
          {'samples': 4}
        """
        return self.model_dump(exclude={"estimator"}, exclude_none=True)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the keys that do not fit, and the sentence that says how to resolve it.

        Example:
          >>> list(Gradient(estimator="evolution", population=5).problems())
          [('population', 'points come in pairs at opposite sides, and 5 is odd; use 6')]
        """
        takes = TAKES[self.estimator]
        for key in self.settings():
            if key not in takes and not (key == "chunk" and takes):
                others = " or ".join(name for name, keys in TAKES.items() if key in keys or (key == "chunk" and keys))
                yield key, f"{self.estimator} has no {key}; remove this, or use {others} as gradient.estimator"
                return
        if self.population is not None and self.population % 2:
            yield (
                "population",
                (f"points come in pairs at opposite sides, and {self.population} is odd; use {self.population + 1}"),
            )
            return
        name, usual = ("population", 64) if self.estimator == "evolution" else ("samples", 1)
        count = getattr(self, name) or usual
        if self.chunk is not None and count % self.chunk:
            yield "chunk", f"{self.chunk} does not divide gradient.{name}, {count}; use a divisor of {count}"
