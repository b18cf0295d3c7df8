"""Gradient clipping, masks of weight decay, and groups of parameters. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from jaxprop.config.schema.base import NonNegativeFloat, PositiveFloat, Section
from jaxprop.config.schema.named import Pattern, problem, regex


class GradClip(Section):
    """Gradient clipping; where several are given: by value, then adaptive, then by global norm."""

    norm: PositiveFloat | None = Field(None, description="largest global norm; frozen parameters do not count")
    value: PositiveFloat | None = Field(None, description="largest absolute value of an entry")
    adaptive: PositiveFloat | None = Field(None, description="largest ratio of a unit's gradient norm to its own norm")

    @model_validator(mode="after")
    def _one_at_least(self) -> GradClip:
        if self.norm is self.value is self.adaptive is None:
            raise problem("expected at least one of norm, value, adaptive, as in {norm: 1.0}; got none")
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
            raise problem(f"a frozen group is not updated, so {' and '.join(others)} would do nothing; remove it")
        if not self.freeze and not others:
            raise problem(f"group {self.match!r} changes nothing; give it lr_scale, weight_decay or freeze: true")
        return self


def _decay_mask(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value in ("all", "matrices"):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return tuple(regex(item) for item in value)
    raise problem(f"expected all, matrices or a list of path patterns such as ['.*/kernel'], got {value!r}")


DecayMask = Annotated[
    Any,  # str | tuple[str, ...]; pydantic cannot serialize that union behind a plain validator
    PlainValidator(_decay_mask),
    WithJsonSchema(
        {"anyOf": [{"enum": ["all", "matrices"]}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]
