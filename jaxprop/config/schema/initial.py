"""The key `run.init_from`: the weights that a run starts from. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, Strict, create_model
from pydantic_core import core_schema

from jaxprop.config.schema.base import NonNegative, Positive, Section, Text
from jaxprop.config.schema.named import Pattern, problem

Patterns = Annotated[tuple[Pattern, ...], Strict(False)]
MAPS = ("bert", "gpt2", "resnet", "resnet_transformers")  # files in `jaxprop/config/maps`


def _axes(axes: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(axes) != list(range(len(axes))):
        raise problem(f"expected each axis once, such as [1, 0], got {list(axes)}")
    return axes


def _part(part: tuple[int, int]) -> tuple[int, int]:
    if part[0] >= part[1]:
        raise problem(f"expected [number, of how many], counted from 0, such as [0, 3], got {list(part)}")
    return part


Axes = Annotated[tuple[NonNegative, ...], Strict(False), AfterValidator(_axes)]
PartOf = Annotated[tuple[NonNegative, Positive], Strict(False), AfterValidator(_part)]


class WeightRuleKeys(Section):
    """Where arrays of a checkpoint go, and what is done with them."""

    to: Text | None = Field(
        description="the parameter here, with what the groups of the pattern have found, such as "
        "'blocks/\\1/attn/qkv/kernel'; null for arrays that are not weights"
    )
    transpose: Axes | None = Field(
        None, description="axes there in their order here: [1, 0] for a dense layer of PyTorch, [2, 3, 1, 0] for a "
        "convolution"
    )  # fmt: skip
    part: PartOf | None = Field(
        None,
        description="[number, of how many]: the array is one of several that are joined along the last axis, such as "
        "[0, 3] for queries, where keys and values follow",
    )
    cut: bool = Field(False, description="take the first rows where the parameter here has fewer, as for positions")
    from_one: Annotated[tuple[Positive, ...], Strict(False)] = Field(
        (), description="groups of the pattern that are numbers which count from 1 there, and from 0 here"
    )
    optional: bool = Field(False, description="whether a checkpoint may have no such array")

    @property
    def pattern(self) -> str:
        """The value of the key `from`, which is a word of Python."""
        return getattr(self, "from")


FROM_PATTERN: dict[str, Any] = {
    "from": (Pattern, Field(description="pattern of names there, with / in place of the dots"))
}
WeightRule = create_model("WeightRule", __base__=WeightRuleKeys, __doc__=WeightRuleKeys.__doc__, **FROM_PATTERN)
if TYPE_CHECKING:
    Rules = tuple[WeightRuleKeys, ...]
else:
    Rules = Annotated[tuple[WeightRule, ...], Strict(False), Field(min_length=1)]


class WeightMap(Section):
    """A file of rules: the first one that matches a whole name is used."""

    rules: Rules
    model: dict[str, Any] = Field({}, description="keys of the section `model` that the weights are made for")
    config: dict[str, str] = Field({}, description="keys of a `config.json` beside the weights, and of `model`")
    only: dict[str, Any] = Field(
        {}, description="keys of a `config.json` beside the weights, with the one value that the model here computes"
    )


class _OneOf:
    """Chooses the form of `map` by what it is, so that an error is about that form alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        forms = {"names": handler(dict[Pattern, str]), "rules": handler(Rules), "text": handler(Text)}

        def form(value: Any) -> str:
            if isinstance(value, Mapping):
                return "names"
            return "rules" if isinstance(value, list | tuple) else "text"

        return core_schema.tagged_union_schema(forms, form)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [handler(one) for one in schema["choices"].values()]}


if TYPE_CHECKING:
    MapField = dict[str, str] | tuple[WeightRuleKeys, ...] | str
else:
    MapField = Annotated[Rules | dict[Pattern, str] | Text, _OneOf()]


class InitialWeights(Section):
    """Where a run's first weights come from, which of them are taken, and which are trained."""

    map: MapField = Field(
        {},
        description="patterns of names there and their names here, such as {'encoder/(.*)': 'backbone/\\1'}; or a list "
        f"of rules, the .yaml file of one, or the name of one for checkpoints of others: {', '.join(MAPS)}",
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
        "such as ['fc.*/weight']; rules have their own",
    )

    @property
    def names(self) -> dict[str, str]:
        """The map where it is of patterns and names; empty for rules."""
        return self.map if isinstance(self.map, dict) else {}

    @property
    def source(self) -> str:
        """The value of the key `from`, which is a word of Python."""
        return getattr(self, "from")


FROM: dict[str, Any] = {
    "from": (
        Text,
        Field(
            description="folder of a run, the name of one in runs/, a .safetensors file, or a folder with one or with "
            "the parts of one",
        ),
    )
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
