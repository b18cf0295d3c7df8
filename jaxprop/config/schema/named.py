"""Sections that a `name` chooses, errors of validators, and patterns of paths. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from jaxprop.config.schema.base import Section
from jaxprop.config.schema.custom import Custom
from jaxprop.untrusted.patterns import check


def problem(message: str) -> PydanticCustomError:
    """Returns the error that a validator raises with a message of its own."""
    return PydanticCustomError("optimizer", message)


def regex(pattern: str) -> str:
    """Returns a pattern that is a regular expression, and one that is matched in a bounded time."""
    why = check(pattern)
    if why is not None:
        raise problem(f"{pattern[:80]!r} is not a regular expression: {why}")
    return pattern


Pattern = Annotated[str, AfterValidator(regex)]


def with_ref(model: type[Section]) -> core_schema.CoreSchema:
    """Returns the schema of a section by reference, so that it occurs only once in a JSON Schema."""
    return {**model.__pydantic_core_schema__, "ref": f"{model.__name__}:{id(model)}"}


class ByName:
    """Marks a field whose `name` chooses its model; the location of an error does not contain the chosen name.

    Args:
      names: all names.
      model: name -> pydantic model; called only for the chosen name, so that the others are not built.
      refused: known names that cannot be used -> the reason.
      custom: the model for code of the user's own, which `class` chooses; None where there is no such choice.
      optional: whether null is allowed.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: Callable[[str], type[Section]],
        refused: Mapping[str, str],
        custom: type[Custom] | None = None,
        optional: bool = False,
    ):
        self.names, self.model, self.refused, self.custom = names, model, refused, custom
        self.optional = optional

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        # With a ref, each model occurs only once under $defs, even if several places use it.
        union = handler(core_schema.union_schema([with_ref(self.model(name)) for name in self.names]))
        return {"anyOf": [union, {"type": "null"}]} if self.optional else union

    def validate(self, value: Any) -> Section | None:
        """Validates with the model that `value["name"]` chooses; raises the same errors as a tagged union."""
        if value is None and self.optional:
            return None
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
            raise problem(f"{name} cannot be used: {self.refused[name]}")
        if name not in self.names:
            expected = ", ".join(repr(known) for known in self.names)
            context = {"discriminator": "'name'", "tag": name, "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        return self.model(name).model_validate(value)
