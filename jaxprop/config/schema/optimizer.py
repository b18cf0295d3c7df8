"""The section `optimizer`: an optax optimizer, its schedule, clipping, masks and groups. Imports no jax."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, TypeAdapter, create_model, field_validator, model_validator
from pydantic_core import core_schema

from jaxprop.config.schema.base import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.groups import DecayMask, GradClip, Group
from jaxprop.config.schema.named import ByName, problem, with_ref
from jaxprop.config.schema.optax_table import LEFT_OUT, OPTIMIZERS
from jaxprop.config.schema.schedules import Constant, ScheduleSection

# optax's name of a key -> its name in this section, for "did you mean" in messages.
RENAMED = {"learning_rate": "lr", "mask": "decay_mask", "weight_decay_mask": "decay_mask"}

# Whose updates keep their size where gradients are scaled, entry by entry, so that mup scales their rates in one way.
ADAM_LIKE = frozenset({
    "adabelief", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "nadam", "nadamw", "radam", "rmsprop",
    "sign_sgd",
})  # fmt: skip
WITH_MUP = ADAM_LIKE | {"sgd"}

# A group's lr_scale multiplies the update, which equals scaling the learning rate except for these optimizers.
NOT_PROPORTIONAL = frozenset({"cocob", "fromage", "madgrad"})


class Optimizer(Section):
    """The keys that every optimizer has; `optimizer_model(name)` adds the arguments of one optax optimizer."""

    entry: ClassVar[dict[str, Any]]

    name: str
    lr: float | None
    schedule: ScheduleSection = Field(Constant(), description="learning rate as a function of the step")
    grad_clip: GradClip | None = Field(None, description="gradient clipping; none by default")
    decay_mask: DecayMask = Field(
        "all", description="parameters with weight decay: all, matrices (two or more dimensions), or path patterns"
    )
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

    def arguments(self) -> dict[str, Any]:
        """Returns the optimizer's own arguments by their optax names, without the learning rate.

        Example:
          >>> optimizer_model("sgd")(name="sgd", lr=0.1).arguments()
          {'momentum': None, 'nesterov': False, 'accumulator_dtype': None}
        """
        return {key: getattr(self, key) for key in self.entry["arguments"]}

    @classmethod
    def refused(cls) -> tuple[str, ...]:
        """An optimizer without weight decay does not inherit a mask of it.

        Example:
          >>> optimizer_model("sgd").refused(), optimizer_model("adamw").refused()
          (('decay_mask',), ())
        """
        return ("decay_mask",) if cls.entry["decay"] is None else ()

    @field_validator("decay_mask")
    @classmethod
    def _decays(cls, mask: Any) -> Any:
        if cls.entry["decay"] is None and mask != "all":
            raise problem(f"{cls.__name__} has no weight decay to mask; remove decay_mask")
        return mask

    @field_validator("groups")
    @classmethod
    def _groups_apply(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        for group in groups:
            if cls.entry["decay"] is None and group.weight_decay is not None:
                raise problem(f"{cls.__name__} has no weight decay; remove weight_decay from the group {group.match!r}")
            if cls.__name__ in NOT_PROPORTIONAL and group.lr_scale != 1.0:
                raise problem(
                    f"the update of {cls.__name__} is not proportional to its learning rate; "
                    f"remove lr_scale from the group {group.match!r}"
                )
        return groups

    @model_validator(mode="after")
    def _fits(self) -> Optimizer:
        arguments = self.arguments()
        if self.lr is None and not isinstance(self.schedule, Constant):
            raise problem(f"the schedule {self.schedule.name} shapes a learning rate, but there is none; give lr")
        if not self.entry["scheduled"] and not isinstance(self.schedule, Constant):
            raise problem(f"optax's {self.name} takes one learning rate and no schedule; remove schedule")
        self._check_base()
        if arguments.get("nesterov") and arguments.get("momentum", 0.0) is None:
            raise problem("nesterov: true does nothing without momentum; give momentum, such as 0.9")
        return self

    def _check_base(self) -> None:
        given = [key for key in ("base_width", "base") if getattr(self, key) is not None]
        if self.parametrization == "standard":
            if given:
                raise problem(f"{given[0]} is for parametrization: mup; add that, or remove {given[0]}")
            return
        if self.name not in WITH_MUP:
            known = ", ".join(sorted(WITH_MUP))
            raise problem(f"how rates of {self.name} depend on the width is not known; with mup, use one of {known}")
        if len(given) != 1:
            got = "both" if given else "neither"
            raise problem(f"mup needs the width that rates were found at: base_width: 64, or base; got {got}")


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
        if self.lr is None and not isinstance(self.schedule, Constant):
            raise problem(f"the schedule {self.schedule.name} shapes a learning rate, but there is none; give lr")
        return self


KINDS: dict[str, Any] = {
    "positive": PositiveFloat,
    "nonnegative": NonNegativeFloat,
    "fraction": Fraction,
    "positive_int": Positive,
    "nonnegative_int": NonNegative,
    "bool": bool,
    "dtype": Literal["float32", "bfloat16", "float16"],
}


def _field(kind: str | tuple[str, ...], default: Any) -> tuple[Any, Any]:
    """Returns the annotation and the default of one argument in the table."""
    if isinstance(kind, tuple):
        return Literal[kind], default
    if kind in ("floats", "fractions"):
        items: Any = (Fraction if kind == "fractions" else float,) * len(default)
        return Annotated[tuple.__class_getitem__(items), Strict(False)], default
    if kind.endswith("?"):
        return KINDS[kind[:-1]] | None, default
    return KINDS[kind], default


@cache
def optimizer_model(name: str) -> type[Optimizer]:
    """Returns the pydantic model of one optax optimizer, built from `optax_table`.

    Args:
      name: a key of `OPTIMIZERS`.

    Returns:
      A subclass of `Optimizer` with a field for each argument.

    Example:
      >>> optimizer_model("adamw")(name="adamw", lr=1e-3, b1=0.8).arguments()["b1"]
      0.8
    """
    entry = OPTIMIZERS[name]
    fields: dict[str, Any] = {key: _field(kind, default) for key, (kind, default) in entry["arguments"].items()}
    fields |= {"name": (Literal[name], ...), "lr": _field(*entry["lr"])}
    model = create_model(name, __base__=Optimizer, __doc__=entry["about"], **fields)
    model.entry = entry
    return model


class OptimizerByName(ByName):
    """Writes the JSON Schema of all optimizers from the table: building 42 models for it takes a third of a second."""

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        shared = handler.resolve_ref_schema(handler(core_schema.union_schema([with_ref(Optimizer)])))
        custom = handler(core_schema.union_schema([with_ref(CustomOptimizer)]))
        return {"oneOf": [*(_optimizer_json(name, shared) for name in self.names), custom]}


def _optimizer_json(name: str, shared: dict[str, Any]) -> dict[str, Any]:
    entry = OPTIMIZERS[name]
    own = {key: _argument_json(*argument) for key, argument in {"lr": entry["lr"], **entry["arguments"]}.items()}
    return {
        **shared,
        "title": name,
        "description": entry["about"],
        "properties": {**shared["properties"], "name": {"const": name, "type": "string"}, **own},
        "required": ["name", "lr"] if entry["lr"][1] is ... else ["name"],
    }


def _argument_json(kind: str | tuple[str, ...], default: Any) -> dict[str, Any]:
    if isinstance(default, tuple):
        return {**_kind_json(kind, len(default)), "default": list(default)}
    return {**_kind_json(kind, 0), **({} if default is ... else {"default": default})}


@cache
def _kind_json(kind: str | tuple[str, ...], length: int) -> dict[str, Any]:
    return TypeAdapter(_field(kind, (0.0,) * length)[0]).json_schema()


OptimizerSection = Annotated[
    Optimizer | CustomOptimizer,
    OptimizerByName(tuple(OPTIMIZERS), optimizer_model, LEFT_OUT, CustomOptimizer),
]
