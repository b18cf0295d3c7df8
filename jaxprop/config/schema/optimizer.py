"""The section `optimizer`: an optax optimizer, its schedule, clipping, masks and groups. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from jaxprop.config.schema.base import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.optax_table import LEFT_OUT, OPTIMIZERS
from jaxprop.untrusted.patterns import check

# optax's name of a key -> its name in this section, for "did you mean" in messages.
RENAMED = {"learning_rate": "lr", "mask": "decay_mask", "weight_decay_mask": "decay_mask"}


# A group's lr_scale multiplies the update, which equals scaling the learning rate except for these optimizers.
NOT_PROPORTIONAL = frozenset({"cocob", "fromage", "madgrad"})


def _problem(message: str) -> PydanticCustomError:
    return PydanticCustomError("optimizer", message)


def _regex(pattern: str) -> str:
    why = check(pattern)
    if why is not None:
        raise _problem(f"{pattern[:80]!r} is not a regular expression: {why}")
    return pattern


Pattern = Annotated[str, AfterValidator(_regex)]


def _with_ref(model: type[Section]) -> core_schema.CoreSchema:
    return {**model.__pydantic_core_schema__, "ref": f"{model.__name__}:{id(model)}"}


class ByName:
    """Marks a field whose `name` chooses its model; the location of an error does not contain the chosen name.

    Args:
      names: all names.
      model: name -> pydantic model; called only for the chosen name, so that the others are not built.
      refused: known names that cannot be used -> the reason.
      custom: the model for code of the user's own, which `class` chooses; None where there is no such choice.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: Callable[[str], type[Section]],
        refused: Mapping[str, str],
        custom: type[Custom] | None = None,
    ):
        self.names, self.model, self.refused, self.custom = names, model, refused, custom

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        # With a ref, each model occurs only once under $defs, even if several places use it.
        return handler(core_schema.union_schema([_with_ref(self.model(name)) for name in self.names]))

    def validate(self, value: Any) -> Section:
        """Validates with the model that `value["name"]` chooses; raises the same errors as a tagged union."""
        if isinstance(value, Section) and (isinstance(value, Custom) or getattr(value, "name", None) in self.names):
            return value
        if not isinstance(value, Mapping):
            raise PydanticKnownError("dict_type")
        if self.custom is not None and "class" in value:
            return self.custom.model_validate(value)
        if "name" not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        name = str(value["name"]).encode("utf-8", "replace").decode()  # pydantic takes no half of a character
        if name in self.refused:
            raise _problem(f"{name} cannot be used: {self.refused[name]}")
        if name not in self.names:
            expected = ", ".join(repr(known) for known in self.names)
            context = {"discriminator": "'name'", "tag": name, "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        return self.model(name).model_validate(value)


# -- schedules ----------------------------------------------------------------------------------

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
            raise _problem(f"expected one scale for each boundary, got {count}")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise _problem(f"expected increasing boundaries, got {list(self.boundaries)}")
        return self


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
    "one_cycle": OneCycle,
}
ScheduleSection = Annotated[Schedule, ByName(tuple(SCHEDULES), SCHEDULES.__getitem__, {})]


# -- clipping and groups ------------------------------------------------------------------------


class GradClip(Section):
    """Gradient clipping; where several are given: by value, then adaptive, then by global norm."""

    norm: PositiveFloat | None = Field(None, description="largest global norm; frozen parameters do not count")
    value: PositiveFloat | None = Field(None, description="largest absolute value of an entry")
    adaptive: PositiveFloat | None = Field(None, description="largest ratio of a unit's gradient norm to its own norm")

    @model_validator(mode="after")
    def _one_at_least(self) -> GradClip:
        if self.norm is self.value is self.adaptive is None:
            raise _problem("expected at least one of norm, value, adaptive, as in {norm: 1.0}; got none")
        return self


class Group(Section):
    """Settings for the parameters whose path matches; the first group that matches applies."""

    match: Pattern = Field(
        description="regular expression that the whole path of a parameter matches, such as 'head/.*'"
    )
    lr_scale: PositiveFloat = Field(1.0, description="factor on the learning rate")
    weight_decay: NonNegativeFloat | None = Field(
        None, description="weight decay of the group; default: that of the optimizer"
    )
    freeze: bool = Field(False, description="do not train these parameters; they have no optimizer state")

    @model_validator(mode="after")
    def _says_something(self) -> Group:
        others = ["lr_scale"] * (self.lr_scale != 1.0) + ["weight_decay"] * (self.weight_decay is not None)
        if self.freeze and others:
            raise _problem(f"a frozen group is not updated, so {' and '.join(others)} would do nothing; remove it")
        if not self.freeze and not others:
            raise _problem(f"group {self.match!r} changes nothing; give it lr_scale, weight_decay or freeze: true")
        return self


def _decay_mask(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value in ("all", "matrices"):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return tuple(_regex(item) for item in value)
    raise _problem(f"expected all, matrices or a list of path patterns such as ['.*/kernel'], got {value!r}")


DecayMask = Annotated[
    Any,  # str | tuple[str, ...]; pydantic cannot serialize that union behind a plain validator
    PlainValidator(_decay_mask),
    WithJsonSchema(
        {"anyOf": [{"enum": ["all", "matrices"]}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]


# -- optimizers ---------------------------------------------------------------------------------


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
            raise _problem(f"{cls.__name__} has no weight decay to mask; remove decay_mask")
        return mask

    @field_validator("groups")
    @classmethod
    def _groups_apply(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        for group in groups:
            if cls.entry["decay"] is None and group.weight_decay is not None:
                raise _problem(
                    f"{cls.__name__} has no weight decay; remove weight_decay from the group {group.match!r}"
                )
            if cls.__name__ in NOT_PROPORTIONAL and group.lr_scale != 1.0:
                raise _problem(
                    f"the update of {cls.__name__} is not proportional to its learning rate; "
                    f"remove lr_scale from the group {group.match!r}"
                )
        return groups

    @model_validator(mode="after")
    def _fits(self) -> Optimizer:
        arguments = self.arguments()
        if self.lr is None and not isinstance(self.schedule, Constant):
            raise _problem(f"the schedule {self.schedule.name} shapes a learning rate, but there is none; give lr")
        if not self.entry["scheduled"] and not isinstance(self.schedule, Constant):
            raise _problem(f"optax's {self.name} takes one learning rate and no schedule; remove schedule")
        if arguments.get("nesterov") and arguments.get("momentum", 0.0) is None:
            raise _problem("nesterov: true does nothing without momentum; give momentum, such as 0.9")
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
                raise _problem(
                    "an optimizer of your own takes weight decay as its argument; "
                    f"remove it from the group {group.match!r}"
                )
        return groups

    @model_validator(mode="after")
    def _has_rate(self) -> CustomOptimizer:
        if self.lr is None and not isinstance(self.schedule, Constant):
            raise _problem(f"the schedule {self.schedule.name} shapes a learning rate, but there is none; give lr")
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
        shared = handler.resolve_ref_schema(handler(core_schema.union_schema([_with_ref(Optimizer)])))
        custom = handler(core_schema.union_schema([_with_ref(CustomOptimizer)]))
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
