"""Sections with code of the user's own: `class` names it, and the other keys are its arguments. Imports no jax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, create_model, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from jaxprop.config.schema.base import Section

FILE = re.compile(r".+\.py")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
NAME = re.compile(r"[A-Za-z_]\w*")
BOTH = "name and class are both given; name chooses one of jaxprop's own, class code of yours; remove one of them"


class Target(NamedTuple):
    """What a `class` names.

    Args:
      where: path of a file that ends with `.py`, or a module such as `package.module`.
      name: of the class or function in it.
    """

    where: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether `where` is a path."""
        return FILE.fullmatch(self.where) is not None

    @property
    def shown(self) -> str:
        """`file.py:Name` without the file's folder, for messages."""
        return f"{self.source}:{self.name}"

    @property
    def source(self) -> str:
        """The file without its folder, or the module: what `--code` is compared with."""
        return PurePath(self.where).name if self.is_file else self.where


def target_of(text: str) -> Target | None:
    """Reads `FILE.py:NAME` or `package.module:NAME`; None where the text is neither.

    Example:
      >>> target_of("nets/my_model.py:Net")
      Target(where='nets/my_model.py', name='Net')
      >>> target_of("my_model.py") is target_of("a b:Net") is None
      True
    """
    where, _, name = text.rpartition(":")
    written = NAME.fullmatch(name) and (FILE.fullmatch(where) or MODULE.fullmatch(where))
    return Target(where, name) if written else None


def _checked(text: str) -> str:
    if target_of(text) is None:
        raise PydanticCustomError(
            "target",
            "expected FILE.py:NAME or package.module:NAME, such as my_model.py:Net, got {text}",
            {"text": repr(text)},
        )
    return text


if TYPE_CHECKING:
    _WithClass = Section
else:
    # `class` is a keyword of Python, so that it cannot be written as an annotation.
    _WithClass = create_model(
        "_WithClass",
        __base__=Section,
        __module__=__name__,
        **{
            "class": (
                Annotated[str, AfterValidator(_checked)],
                Field(
                    description="FILE.py:NAME, relative to the config, or package.module:NAME; other keys are arguments"
                ),
            )
        },
    )


class Custom(_WithClass):
    """Code of your own; further keys are its arguments."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"not": {"required": ["name"]}})

    class_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="digest of the file; jaxprop writes it into the folder of a run"
    )
    # Told by `jaxprop.config.custom.admit`; whatever else makes a section may run nothing.
    _permitted: bool = PrivateAttr(default=False)
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_of_them(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "name" in value:
            raise PydanticCustomError("name_and_class", BOTH)
        return value

    @property
    def target(self) -> Target:
        """What `class` names."""
        found = target_of(getattr(self, "class"))
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """What messages call it, such as `my_model.py:Net`."""
        return self.target.shown

    @property
    def permitted(self) -> bool:
        """Whether the user has named the code, in a config or with `--code`, so that it may be run."""
        return self._permitted

    @property
    def origins(self) -> Mapping[str, str]:
        """Where the configuration's keys were written, by dotted path."""
        return self._origins

    def arguments(self) -> dict[str, Any]:
        """Returns the keys that are the code's own.

        Example:
          >>> Custom.model_validate({"class": "my_model.py:Net", "width": 64}).arguments()
          {'width': 64}
        """
        return dict(self.model_extra or {})

    def admitted(self, target: Target, permitted: bool, origins: Mapping[str, str]) -> Custom:
        """Returns the section with another target, and what is known of where it comes from.

        Args:
          target: the file by its absolute path, or the module.
          permitted: whether it may be run.
          origins: where the configuration's keys were written.
        """
        copy = self.model_copy(update={"class": f"{target.where}:{target.name}"})
        copy._permitted, copy._origins = permitted, origins
        return copy

    def __eq__(self, other: object) -> bool:
        """Equal in class and keys; where they were written makes no difference."""
        return (
            isinstance(other, Custom)
            and type(other) is type(self)
            and (vars(self), self.model_extra) == (vars(other), other.model_extra)
        )

    def __hash__(self) -> int:
        return hash(getattr(self, "class"))


class Chosen:
    """Marks a union of sections: `name` chooses among them, and `class` chooses the one for code of one's own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        choices: dict[Any, core_schema.CoreSchema] = {
            tag: handler.generate_schema(model) for model in get_args(source) for tag in _tags(model)
        }
        union = core_schema.tagged_union_schema(choices, _tag)
        return core_schema.no_info_before_validator_function(_mapping, union)


def _mapping(value: Any) -> Any:
    if not isinstance(value, Mapping | Section):
        raise PydanticKnownError("dict_type")
    return value


def _tag(value: Any) -> str | None:
    if isinstance(value, Custom) or (isinstance(value, Mapping) and "class" in value):
        return "class"
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else None
    return getattr(value, "name", None)


def names_of(model: type[Section]) -> tuple[str, ...]:
    """Returns the names that choose a section; none for code of one's own.

    Example:
      >>> names_of(Custom)
      ()
    """
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field else ()


def _tags(model: type[Section]) -> Iterable[str]:
    return ("class",) if issubclass(model, Custom) else names_of(model)
