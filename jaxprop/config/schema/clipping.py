"""Gradient clipping, and masks of weight decay. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from jaxprop.config.schema.base import PositiveFloat, Section
from jaxprop.config.schema.named import problem, regex


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
