"""The section `optimizer`: an optax optimizer, its schedule, clipping, masks and groups. Imports no jax."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from jaxprop.config.schema.base import NonNegativeFloat, Positive
from jaxprop.config.schema.clipping import GradClip
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.groups import NOT_PROPORTIONAL, WHOLE, Group, not_proportional, whole
from jaxprop.config.schema.named import problem
from jaxprop.config.schema.optax_models import OneOptimizer, OptimizerByName, check_rate, model_of
from jaxprop.config.schema.schedules import Constant, Schedule, ScheduleSection
from jaxprop.config.tree import Path

# optax's name of a key -> its name in this section, for "did you mean" in messages.
RENAMED = {"learning_rate": "lr", "mask": "decay_mask", "weight_decay_mask": "decay_mask"}

# Whose updates keep their size where gradients are scaled, entry by entry, so that mup scales their rates in one way.
ADAM_LIKE = frozenset({
    "adabelief", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "nadam", "nadamw", "radam", "rmsprop",
    "sign_sgd",
})  # fmt: skip
WITH_MUP = ADAM_LIKE | {"muon", "sgd"}


class Optimizer(OneOptimizer):
    """The keys that every optimizer has; `optimizer_model(name)` adds the arguments of one optax optimizer."""

    schedule: ScheduleSection = Field(Constant(), description="learning rate as a function of the step")
    groups: Annotated[tuple[Group, ...], Strict(False)] = Field(
        (), description="settings for the parameters whose path matches"
    )
    parametrization: Literal["standard", "mup"] = Field(
        "standard",
        description="how initial values and learning rates depend on the model's width: standard, or mup, with which a "
        "rate that was found at a small width holds at a large one",
    )
    base_width: Positive | None = Field(
        None, description="for mup: the width at which the model is as with standard; all its widths are in proportion"
    )
    base: dict[str, Any] | None = Field(
        None, description="for mup, in place of base_width: keys of model and their values at which it is as usual"
    )

    @field_validator("groups")
    @classmethod
    def _groups_apply(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        for group in groups:
            if cls.__name__ in WHOLE and (group.freeze or group.optimizer is not None):
                raise problem(whole(cls.__name__))
            if cls.entry["decay"] is None and group.weight_decay is not None:
                raise problem(f"{cls.__name__} has no weight decay; remove weight_decay from the group {group.match!r}")
            if group.optimizer is None and cls.__name__ in NOT_PROPORTIONAL and group.lr_scale != 1.0:
                raise problem(not_proportional(cls.__name__, group.match))
        return groups

    @model_validator(mode="after")
    def _has_base(self) -> Optimizer:
        given = [key for key in ("base_width", "base") if getattr(self, key) is not None]
        if self.parametrization == "standard":
            if given:
                raise problem(f"{given[0]} is for parametrization: mup; add that, or remove {given[0]}")
            return self
        for name in (self.name, *(group.optimizer.name for group in self.groups if group.optimizer is not None)):
            if name not in WITH_MUP:
                known = ", ".join(sorted(WITH_MUP))
                raise problem(f"how rates of {name} depend on the width is not known; with mup, use one of {known}")
        if len(given) != 1:
            got = "both" if given else "neither"
            raise problem(f"mup needs the width that rates were found at: base_width: 64, or base; got {got}")
        return self


class CustomOptimizer(Custom):
    """An optimizer of your own: a function that returns an optax transformation.

    It receives `lr` as `learning_rate` or as `lr`, whichever its signature has: a number, or with a schedule a function
    of the number of updates, as the optimizers of optax take it.
    """

    lr: NonNegativeFloat | None = Field(None, description="learning rate, for functions that take learning_rate")
    schedule: ScheduleSection = Field(Constant(), description="learning rate as a function of the step")
    grad_clip: GradClip | None = Field(None, description="gradient clipping; none by default")
    groups: Annotated[tuple[Group, ...], Strict(False)] = Field(
        (), description="settings for the parameters whose path matches; without weight_decay"
    )

    @field_validator("groups")
    @classmethod
    def _no_decay(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        for group in groups:
            if group.weight_decay is not None:
                raise problem(
                    "an optimizer of your own takes weight decay as its argument; "
                    f"remove it from the group {group.match!r}"
                )
        return groups

    @model_validator(mode="after")
    def _has_rate(self) -> CustomOptimizer:
        check_rate(self)
        return self


@cache
def optimizer_model(name: str) -> type[Optimizer]:
    """Returns the pydantic model of one optax optimizer, as the section `optimizer` has it.

    Args:
      name: a key of `OPTIMIZERS`.

    Example:
      >>> optimizer_model("adamw")(name="adamw", lr=1e-3, b1=0.8).arguments()["b1"]
      0.8
    """
    return model_of(name, Optimizer)


def schedules_of(section: Optimizer | CustomOptimizer) -> dict[Path, Schedule]:
    """Returns the schedules that a configuration states, of the run and of its groups, by their paths.

    Args:
      section: the section `optimizer`.

    Example:
      >>> list(schedules_of(optimizer_model("sgd")(name="sgd", lr=0.1)))
      [('optimizer', 'schedule')]
    """
    found: dict[Path, Schedule] = {("optimizer", "schedule"): section.schedule}
    for i, group in enumerate(section.groups):
        if group.optimizer is not None and group.optimizer.schedule is not None:
            found["optimizer", "groups", i, "optimizer", "schedule"] = group.optimizer.schedule
    return found


OptimizerSection = Annotated[Optimizer | CustomOptimizer, OptimizerByName(Optimizer, optimizer_model, CustomOptimizer)]
