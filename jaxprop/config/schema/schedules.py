"""The keys `schedule` of an optimizer: the learning rate as a function of the step. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from jaxprop.config.schema.base import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from jaxprop.config.schema.named import ByName
from jaxprop.config.schema.named import problem as problem_of

OpenFraction = Annotated[float, Field(gt=0, lt=1)]
EndScale = Annotated[NonNegativeFloat, Field(description="last learning rate as a multiple of lr")]
StartScale = Annotated[Fraction, Field(description="first learning rate as a multiple of lr")]
Length = Annotated[Positive | None, Field(description="length of the schedule in steps; default: that of the run")]
Warmup = Annotated[NonNegative, Field(description="number of steps from start_scale * lr up to lr")]


class Schedule(Section):
    """The keys that every schedule has; the rate is `lr` times a function of the number of updates so far."""

    name: str

    @property
    def length_key(self) -> str | None:
        """The key that would fix the length of the schedule, where that is the length of the run; otherwise None.

        A run may be made longer only where its schedule has a length of its own, or none.

        Example:
          >>> Cosine(name="cosine").length_key, Cosine(name="cosine", steps=40).length_key, Constant().length_key
          ('steps', None, None)
        """
        return next((key for key in ("steps", "decay_steps") if getattr(self, key, 0) is None), None)

    def problem(self, steps: int) -> str | None:
        """Returns why the schedule does not fit a run of `steps` updates, or None.

        Example:
          >>> WarmupCosine(name="warmup_cosine", warmup_steps=500).problem(400)
          'warmup_steps is 500, but the schedule has 400 steps; use fewer, such as optimizer.schedule.warmup_steps=40'
        """
        del steps
        return None


class Constant(Schedule):
    """The rate is `lr` throughout."""

    name: Literal["constant"] = "constant"


class Linear(Schedule):
    """A straight line from `lr` to `end_scale * lr`."""

    name: Literal["linear"]
    end_scale: EndScale = 0.0
    steps: Length = None


class Cosine(Schedule):
    """Half a cosine from `lr` to `end_scale * lr`."""

    name: Literal["cosine"]
    end_scale: EndScale = 0.0
    steps: Length = None


class WarmupCosine(Schedule):
    """A straight line up to `lr`, then half a cosine down to `end_scale * lr`."""

    name: Literal["warmup_cosine"]
    warmup_steps: Warmup
    start_scale: StartScale = 0.0
    end_scale: EndScale = 0.0
    steps: Length = None

    def problem(self, steps: int) -> str | None:
        length = self.steps or steps
        if self.warmup_steps < length:
            return None
        return (
            f"warmup_steps is {self.warmup_steps}, but the schedule has {length} steps; use fewer, such as "
            f"optimizer.schedule.warmup_steps={length // 10}"
        )


class WarmupStableDecay(Schedule):
    """A straight line up to `lr`, a plateau, and `decay_steps` down to `end_scale * lr` at the end."""

    name: Literal["warmup_stable_decay"]
    warmup_steps: Warmup
    decay_steps: Positive = Field(description="number of steps of the last phase")
    start_scale: StartScale = 0.0
    end_scale: EndScale = 0.0
    shape: Literal["linear", "cosine"] = Field("linear", description="shape of the last phase")
    steps: Length = None

    def problem(self, steps: int) -> str | None:
        length, phases = self.steps or steps, self.warmup_steps + self.decay_steps
        if phases <= length:
            return None
        return f"warmup_steps + decay_steps is {phases}, but the schedule has {length} steps; expected at most that"


class Exponential(Schedule):
    """`lr * decay_rate^(step / decay_steps)`, no lower than `end_scale * lr`."""

    name: Literal["exponential"]
    decay_rate: OpenFraction = Field(description="factor on the learning rate every decay_steps steps")
    decay_steps: Annotated[
        Positive | None,
        Field(description="number of steps in which the rate falls by decay_rate; default: those of the run"),
    ] = None
    staircase: bool = Field(False, description="change the rate only at multiples of decay_steps")
    end_scale: EndScale = 0.0


class Piecewise(Schedule):
    """Constant between boundaries; at each boundary the rate is multiplied by its scale, as in optax."""

    name: Literal["piecewise"]
    boundaries: Annotated[tuple[Positive, ...], Strict(False)] = Field(description="numbers of steps, increasing")
    scales: Annotated[tuple[PositiveFloat, ...], Strict(False)] = Field(description="one factor for each boundary")

    @model_validator(mode="after")
    def _paired(self) -> Piecewise:
        if len(self.boundaries) != len(self.scales):
            count = f"{len(self.boundaries)} boundaries and {len(self.scales)} scales"
            raise problem_of(f"expected one scale for each boundary, got {count}")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise problem_of(f"expected increasing boundaries, got {list(self.boundaries)}")
        return self


class CosineRestarts(Schedule):
    """Half a cosine from `lr` to `end_scale * lr`, again and again: each cycle is `factor` times as long (SGDR)."""

    name: Literal["cosine_restarts"]
    period: Positive = Field(description="number of steps of the first cycle")
    factor: Annotated[float, Field(ge=1)] = Field(1.0, description="length of a cycle over that of the one before")
    decay: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="factor on the highest rate at each restart")
    warmup_steps: NonNegative = Field(0, description="number of steps from 0 up to lr before the first cycle")
    end_scale: EndScale = 0.0

    def problem(self, steps: int) -> str | None:
        if self.warmup_steps < steps:
            return None
        return f"warmup_steps is {self.warmup_steps}, but the run has {steps} steps; use fewer"


class OneCycle(Schedule):
    """Half a cosine from `lr / div_factor` up to `lr`, then one down to `lr / (div_factor * final_div_factor)`."""

    name: Literal["one_cycle"]
    peak_fraction: OpenFraction = Field(0.3, description="fraction of the cycle after which the rate is lr")
    div_factor: PositiveFloat = Field(25.0, description="lr divided by the first rate")
    final_div_factor: PositiveFloat = Field(1e4, description="the first rate divided by the last")
    steps: Length = None

    def problem(self, steps: int) -> str | None:
        length = self.steps or steps
        if int(self.peak_fraction * length) >= 1:
            return None
        return f"peak_fraction {self.peak_fraction} of {length} steps is less than one step; expected a longer run"


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "warmup_cosine": WarmupCosine,
    "warmup_stable_decay": WarmupStableDecay,
    "exponential": Exponential,
    "piecewise": Piecewise,
    "cosine_restarts": CosineRestarts,
    "one_cycle": OneCycle,
}
ScheduleSection = Annotated[Schedule, ByName(tuple(SCHEDULES), SCHEDULES.__getitem__, {})]
