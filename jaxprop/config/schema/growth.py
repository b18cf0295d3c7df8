"""The key `run.grow_batch`: a batch that becomes larger in the course of a run. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from jaxprop.config.schema.base import Positive, PositiveFloat, Section
from jaxprop.config.schema.named import ByName
from jaxprop.config.schema.named import problem as problem_of

Factor = Annotated[int, Field(ge=2, le=2**16)]


class GrowBatch(Section):
    """The keys that every way to grow a batch has."""

    name: str


class GrowBySteps(GrowBatch):
    """From each of some steps on, a batch is a multiple of `data.batch_size`."""

    name: Literal["steps"]
    boundaries: Annotated[tuple[Positive, ...], Strict(False), Field(min_length=1)] = Field(
        description="numbers of steps, increasing; after each the next factor counts"
    )
    factors: Annotated[tuple[Factor, ...], Strict(False)] = Field(
        description="batches of data.batch_size that one step takes, increasing; one for each boundary"
    )

    @model_validator(mode="after")
    def _paired(self) -> GrowBySteps:
        if len(self.boundaries) != len(self.factors):
            count = f"{len(self.boundaries)} boundaries and {len(self.factors)} factors"
            raise problem_of(f"expected one factor for each boundary, got {count}")
        for name in ("boundaries", "factors"):
            if list(values := getattr(self, name)) != sorted(set(values)):
                raise problem_of(f"expected increasing {name}, got {list(values)}")
        return self

    def factor(self, step: int) -> int:
        """Returns how many batches the step after `step` steps takes.

        Example:
          >>> grown = GrowBySteps(name="steps", boundaries=(10, 20), factors=(2, 8))
          >>> [grown.factor(step) for step in (0, 9, 10, 19, 20)]
          [1, 1, 2, 2, 8]
        """
        return max((f for after, f in zip(self.boundaries, self.factors, strict=True) if step >= after), default=1)

    def steps(self, batches: int) -> int:
        """Returns the number of steps that take at least so many batches.

        Example:
          >>> GrowBySteps(name="steps", boundaries=(10, 20), factors=(2, 8)).steps(37)
          21
        """
        step = taken = 0
        while taken < batches:
            taken += self.factor(step)
            step += 1
        return step


class GrowByNoise(GrowBatch):
    """The batch doubles where the measured gradient noise scale is as large: all of its examples then still serve."""

    name: Literal["noise_scale"]
    largest: Factor = Field(8, description="largest number of batches of data.batch_size that one step takes")
    ratio: PositiveFloat = Field(1.0, description="noise scale over batch at which the batch doubles")
    every_steps: Positive = Field(100, description="steps between two decisions")


GROWTHS: dict[str, type[GrowBatch]] = {"steps": GrowBySteps, "noise_scale": GrowByNoise}
GrowBatchSection = Annotated[GrowBatch | None, ByName(tuple(GROWTHS), GROWTHS.__getitem__, {}, optional=True)]
