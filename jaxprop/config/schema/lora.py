"""The section `lora`: frozen weights, and adapters of a low rank that are trained in their place. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.base import Positive, PositiveFloat, Section
from jaxprop.config.schema.named import Pattern


class Lora(Section):
    """Low-rank adaptation: the weights stay as they are, and beside some matrices a product of two small ones learns.

    All other parameters are frozen. The weights are usually those that `run.init_from` names.
    """

    match: Pattern = Field(
        description="regular expression that the whole path of a layer or of a matrix matches, such as "
        "'blocks/.*/(qkv|out)'"
    )
    rank: Positive = Field(8, description="columns of A and rows of B in W + alpha / rank * A B")
    alpha: PositiveFloat = Field(16.0, description="scale of the product, divided by rank")
    train: Annotated[tuple[Pattern, ...], Strict(False)] = Field(
        (), description="patterns of other layers or parameters that are trained as they are, such as ['head']"
    )
    quantize: Literal["int8", "int4", "nf4"] | None = Field(
        None, description="QLoRA: the adapted weights are kept in 8 or 4 bits, through Qwix; null: as they are"
    )
