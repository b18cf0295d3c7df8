"""The key `task.teacher`: a trained model whose outputs a model learns from. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic_core import core_schema

from jaxprop.config.schema.base import PositiveFloat, Section, Text
from jaxprop.config.schema.custom import Custom

Share = Annotated[float, Field(gt=0, le=1)]
DIGEST = "digest of the teacher's arrays; jaxprop writes it into the folder of a run"
TEMPERATURE = "what logits are divided by before the softmax or the sigmoid; not looked at where outputs are numbers"
WEIGHT = "weight of the teacher in the loss; that of the labels is 1 - weight"


class RunTeacher(Section):
    """A run whose best checkpoint is the teacher."""

    run: Text = Field(description="folder of a run, or the name of one in runs/")
    temperature: PositiveFloat = Field(2.0, description=TEMPERATURE)
    weight: Share = Field(0.5, description=WEIGHT)
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description=DIGEST)

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.run


class CustomTeacher(Custom):
    """A teacher of your own: a function that returns (model, params) or (model, params, extras)."""

    temperature: PositiveFloat = Field(2.0, description=TEMPERATURE)
    weight: Share = Field(0.5, description=WEIGHT)
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description=DIGEST)

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.name


class _RunOrClass:
    """Marks the two forms, of which `class` chooses the second; the first may be written as its `run` alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        forms = {"run": handler(RunTeacher), "class": handler(CustomTeacher)}

        def form(value: Any) -> str:
            return "class" if isinstance(value, CustomTeacher) or "class" in value else "run"

        def mapping(value: Any) -> Any:
            if isinstance(value, str):
                return {"run": value}
            return value if isinstance(value, Mapping | Section) else {"run": value}

        union = core_schema.tagged_union_schema(forms, form)
        return core_schema.nullable_schema(core_schema.no_info_before_validator_function(mapping, union))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        forms = schema["schema"]["schema"]["choices"].values()
        return {"anyOf": [{"type": "string"}, *(handler(one) for one in forms), {"type": "null"}]}


if TYPE_CHECKING:
    TeacherField = RunTeacher | CustomTeacher | None
else:
    TeacherField = Annotated[RunTeacher | CustomTeacher | None, _RunOrClass()]
