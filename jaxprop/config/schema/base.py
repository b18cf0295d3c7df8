"""Base class and field types of the configuration's sections. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict

MAX_INT = 2**31 - 1  # steps and sizes are int32 on the device
Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
NonNegative = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
# YAML has only lists and a frozen config holds tuples, so strictness is lifted for this conversion.
Sizes = Annotated[tuple[Positive, ...], Strict(False)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Strict(False)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are strict, instances are frozen."""

    # defer_build: otherwise each section's validator would be built twice, by itself and as a part of `Config`
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def refused(cls) -> tuple[str, ...]:
        """Fields whose default is the only value that fits this class, so that another one is not inherited."""
        return ()


S = TypeVar("S", bound=Section)


def defaults(section: type[S]) -> Callable[[], S]:
    """Returns a factory; a default made at import would already build the section's validator, which is slow."""
    return lambda: section.model_validate({})
