"""Models of single optimizers, built from the table of optax's functions, and their JSON Schema. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, Strict, TypeAdapter, create_model, field_validator, model_validator
from pydantic_core import core_schema

from jaxprop.config.schema.base import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from jaxprop.config.schema.clipping import DecayMask, GradClip
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.named import ByName, problem, with_ref
from jaxprop.config.schema.optax_table import LEFT_OUT, OPTIMIZERS
from jaxprop.config.schema.schedules import Constant, Schedule


class OneOptimizer(Section):
    """The keys that an optimizer has wherever it stands; `model_of` adds the arguments of one optax optimizer."""

    entry: ClassVar[dict[str, Any]]

    name: str
    lr: float | None
    schedule: Schedule | None
    grad_clip: GradClip | None = Field(None, description="gradient clipping; none by default")
    decay_mask: DecayMask = Field(
        "all", description="parameters with weight decay: all, matrices (two or more dimensions), or path patterns"
    )

    def arguments(self) -> dict[str, Any]:
        """Returns the optimizer's own arguments by their optax names, without the learning rate.

        Example:
          >>> model_of("sgd", OneOptimizer)(name="sgd", lr=0.1, schedule=None).arguments()
          {'momentum': None, 'nesterov': False, 'accumulator_dtype': None}
        """
        return {key: getattr(self, key) for key in self.entry["arguments"]}

    @classmethod
    def refused(cls) -> tuple[str, ...]:
        """An optimizer without weight decay does not inherit a mask of it.

        Example:
          >>> model_of("sgd", OneOptimizer).refused(), model_of("adamw", OneOptimizer).refused()
          (('decay_mask',), ())
        """
        return ("decay_mask",) if cls.entry["decay"] is None else ()

    @field_validator("decay_mask")
    @classmethod
    def _decays(cls, mask: Any) -> Any:
        if cls.entry["decay"] is None and mask != "all":
            raise problem(f"{cls.__name__} has no weight decay to mask; remove decay_mask")
        return mask

    @model_validator(mode="after")
    def _fits(self) -> OneOptimizer:
        arguments = self.arguments()
        check_rate(self)
        if not self.entry["scheduled"] and not isinstance(self.schedule, Constant | None):
            raise problem(f"optax's {self.name} takes one learning rate and no schedule; remove schedule")
        if arguments.get("nesterov") and arguments.get("momentum", 0.0) is None:
            raise problem("nesterov: true does nothing without momentum; give momentum, such as 0.9")
        return self


def check_rate(section: Any) -> None:
    """Raises the error for a schedule without a learning rate that it could shape.

    Args:
      section: with `lr` and `schedule`.
    """
    if section.lr is None and not isinstance(section.schedule, Constant | None):
        raise problem(f"the schedule {section.schedule.name} shapes a learning rate, but there is none; give lr")


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


Kind = TypeVar("Kind", bound=OneOptimizer)


def model_of(name: str, base: type[Kind]) -> type[Kind]:
    """Returns the pydantic model of one optax optimizer, built from `optax_table`.

    Args:
      name: a key of `OPTIMIZERS`.
      base: with the keys that all of them have at a place.

    Returns:
      A subclass of `base` with a field for each argument.

    Example:
      >>> model_of("adamw", OneOptimizer)(name="adamw", lr=1e-3, schedule=None, b1=0.8).arguments()["b1"]
      0.8
    """
    entry = OPTIMIZERS[name]
    fields: dict[str, Any] = {key: _field(kind, default) for key, (kind, default) in entry["arguments"].items()}
    fields |= {"name": (Literal[name], ...), "lr": _field(*entry["lr"])}
    model = create_model(name, __base__=base, __doc__=entry["about"], **fields)
    model.entry = entry
    return model


class OptimizerByName(ByName):
    """Writes the JSON Schema of all optimizers from the table: building a model for each takes a third of a second.

    Args:
      base: with the keys that all of them have at this place.
      model: name -> pydantic model.
      custom: the model for code of the user's own.
      optional: whether null is allowed.
    """

    def __init__(
        self,
        base: type[OneOptimizer],
        model: Callable[[str], type[OneOptimizer]],
        custom: type[Custom],
        optional: bool = False,
    ):
        super().__init__(tuple(OPTIMIZERS), model, LEFT_OUT, custom, optional)
        self.base = base

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        assert self.custom is not None
        shared = handler.resolve_ref_schema(handler(core_schema.union_schema([with_ref(self.base)])))
        custom = handler(core_schema.union_schema([with_ref(self.custom)]))
        variants = [*(_optimizer_json(name, shared) for name in self.names), custom]
        return {"oneOf": [*variants, {"type": "null"}] if self.optional else variants}


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
