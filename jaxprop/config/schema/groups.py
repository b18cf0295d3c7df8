"""Groups of parameters: factors on their rate, their weight decay, or an optimizer of their own. Imports no jax."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from pydantic import Field, model_validator

from jaxprop.config.schema.base import NonNegativeFloat, PositiveFloat, Section
from jaxprop.config.schema.clipping import GradClip
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.named import ByName, Pattern, problem
from jaxprop.config.schema.optax_models import OneOptimizer, OptimizerByName, check_rate, model_of
from jaxprop.config.schema.schedules import SCHEDULES, Schedule

# Their rate bounds the step that they find, or they go on from where the whole update would have led.
FOLLOWING = ("lbfgs", "momo", "momo_adam", "polyak_sgd", "schedule_free_adamw", "schedule_free_sgd")
# A group's lr_scale multiplies the update, which equals scaling the learning rate except for these optimizers.
NOT_PROPORTIONAL = frozenset({"cocob", "fromage", "madgrad", *FOLLOWING})

# These call the loss or its gradient themselves, as functions of all parameters that are trained.
WHOLE = {
    "lbfgs": "its line search moves all parameters at once",
    "sam": "its second gradient is at a point to which all parameters are moved",
    "sophia": "it differentiates the loss twice with respect to all parameters",
}

GroupSchedule = Annotated[
    Schedule | None,
    ByName(tuple(SCHEDULES), SCHEDULES.__getitem__, {}, optional=True),
    Field(description="learning rate as a function of the step; default: the schedule of optimizer, with this lr"),
]


class GroupOptimizer(OneOptimizer):
    """An optimizer for the parameters of a group alone."""

    schedule: GroupSchedule = None
    grad_clip: GradClip | None = Field(
        None, description="clipping of the group's gradient, after that of optimizer.grad_clip; none by default"
    )


class CustomGroupOptimizer(Custom):
    """An optimizer of your own for the parameters of a group alone, as `optimizer.class`."""

    lr: NonNegativeFloat | None = Field(None, description="learning rate, for functions that take learning_rate")
    schedule: GroupSchedule = None
    grad_clip: GradClip | None = Field(
        None, description="clipping of the group's gradient, after that of optimizer.grad_clip; none by default"
    )

    @model_validator(mode="after")
    def _has_rate(self) -> CustomGroupOptimizer:
        check_rate(self)
        return self


@cache
def group_optimizer_model(name: str) -> type[GroupOptimizer]:
    """Returns the pydantic model of one optax optimizer as a group has it.

    Args:
      name: a key of `OPTIMIZERS`.

    Example:
      >>> group_optimizer_model("muon")(name="muon", lr=0.02).schedule is None
      True
    """
    return model_of(name, GroupOptimizer)


class Group(Section):
    """Settings for the parameters whose path matches; the first group that matches applies."""

    match: Pattern = Field(
        description="regular expression that the whole path of a parameter matches, such as 'head/.*'"
    )
    lr_scale: PositiveFloat = Field(1.0, description="factor on the learning rate")
    weight_decay: NonNegativeFloat | None = Field(
        None, description="weight decay of the group; default: that of the optimizer"
    )
    optimizer: Annotated[
        GroupOptimizer | CustomGroupOptimizer | None,
        OptimizerByName(GroupOptimizer, group_optimizer_model, CustomGroupOptimizer, optional=True),
    ] = Field(None, description="optimizer of the group's own; default: that of all parameters")
    freeze: bool = Field(False, description="do not train these parameters; they have no optimizer state")

    @model_validator(mode="after")
    def _says_something(self) -> Group:
        others = ["lr_scale"] * (self.lr_scale != 1.0) + ["weight_decay"] * (self.weight_decay is not None)
        if self.optimizer is not None:
            if self.weight_decay is not None:
                raise problem(f"the group {self.match!r} has an optimizer of its own; put weight_decay into that")
            if self.optimizer.name in WHOLE:
                raise problem(whole(self.optimizer.name))
            if self.optimizer.name in NOT_PROPORTIONAL and self.lr_scale != 1.0:
                raise problem(not_proportional(self.optimizer.name, self.match))
            others.append("optimizer")
        if self.freeze and others:
            raise problem(f"a frozen group is not updated, so {' and '.join(others)} would do nothing; remove it")
        if not self.freeze and not others and "lr_scale" not in self.model_fields_set:
            raise problem(
                f"group {self.match!r} changes nothing; give it optimizer, lr_scale, weight_decay or freeze: true"
            )
        return self


def whole(name: str) -> str:
    """Returns the sentence for an optimizer that cannot share the parameters with another one."""
    return (
        f"{name} cannot train a part of the parameters: {WHOLE[name]}; let it train all of them, without groups that "
        "are frozen or have an optimizer of their own, or use another optimizer"
    )


def not_proportional(name: str, match: str) -> str:
    """Returns the sentence for a factor on the rate of an optimizer whose update is not proportional to it."""
    return f"the update of {name} is not proportional to its learning rate; remove lr_scale from the group {match!r}"
