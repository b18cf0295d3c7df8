"""The key `run.init_from`: the weights that a run starts from. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, Strict, create_model
from pydantic_core import core_schema

from jaxprop.config.schema.base import Section, Text
from jaxprop.config.schema.named import Pattern

Patterns = Annotated[tuple[Pattern, ...], Strict(False)]


class InitialWeights(Section):
    """Where a run's first weights come from, which of them are taken, and which are trained."""

    map: dict[Pattern, str] = Field(
        {}, description="patterns of names there and their names here, such as {'encoder/(.*)': 'backbone/\\1'}"
    )
    skip: Patterns = Field((), description="patterns of names here that are drawn anew, such as ['head/.*']")
    extend: Patterns = Field(
        (),
        description="patterns of names here that may be larger than there, as a head of more classes is: the values "
        "there come first, and what follows is drawn, such as ['head/.*']",
    )
    freeze: Patterns = Field((), description="patterns of names here that are not trained, such as ['backbone/.*']")
    freeze_statistics: bool = Field(
        False,
        description="keep the statistics of batch normalization in frozen layers, too, which otherwise follow the data",
    )
    transpose: Patterns = Field(
        (),
        description="patterns of names there whose arrays are turned from PyTorch's [out, in, ...] to [..., in, out], "
        "such as ['fc.*/weight']",
    )

    @property
    def source(self) -> str:
        """The value of the key `from`, which is a word of Python."""
        return getattr(self, "from")


FROM: dict[str, Any] = {
    "from": (Text, Field(description="folder of a run, the name of one in runs/, or a .safetensors file"))
}
InitFrom = create_model(
    "InitFrom",
    __base__=InitialWeights,
    __doc__=InitialWeights.__doc__,
    **FROM,
)


class _OrText:
    """Marks a mapping that may be written as its `from` alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        def mapping(value: Any) -> Any:
            return {"from": value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(mapping, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, *handler(schema["schema"])["anyOf"]]}


if TYPE_CHECKING:
    InitFromField = InitialWeights | None
else:
    InitFromField = Annotated[InitFrom | None, _OrText()]
