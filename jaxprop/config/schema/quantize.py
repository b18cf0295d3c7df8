"""The key `precision.quantize`: which products are computed in 8 bits. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, Strict
from pydantic_core import core_schema

from jaxprop.config.schema.base import Section
from jaxprop.config.schema.named import Pattern

RecipeName = Literal["int8", "fp8", "qat_int8"]


class Quantize(Section):
    """Layers whose matrix products and convolutions are computed in 8 bits, through Qwix."""

    name: RecipeName = Field(
        description="int8: products of the forward and the backward pass in int8; fp8: both in float8, on devices that "
        "have such products; qat_int8: quantization-aware training, int8 in the forward pass alone"
    )
    match: Pattern = Field(
        ".*", description="regular expression that the whole path of a layer matches, such as 'blocks/.*'"
    )
    skip: Annotated[tuple[Pattern, ...], Strict(False)] = Field(
        (), description="patterns of layers that are left as they are, such as ['head']"
    )


class _OrName:
    """Marks a section that may be written as its `name` alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        def mapping(value: Any) -> Any:
            return {"name": value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(mapping, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(get_args(RecipeName))}, *handler(schema["schema"])["anyOf"]]}


if TYPE_CHECKING:
    QuantizeField = Quantize | None
else:
    QuantizeField = Annotated[Quantize | None, _OrName()]
