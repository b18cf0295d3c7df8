"""The types that the configuration's classes allow at a path, given the names chosen along it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from jaxprop.config.schema.base import Section
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom, names_of
from jaxprop.config.schema.named import ByName
from jaxprop.config.tree import Path


class Choices(NamedTuple):
    """The classes among which a mapping's `name` or `class` chooses.

    Args:
      names: all names.
      model: name -> class.
      tagged: whether pydantic adds the chosen name to the location of an error.
      custom: the class for code of the user's own, which `class` chooses; None where there is no such choice.
    """

    names: tuple[str, ...]
    model: Callable[[str], type[Section]]
    tagged: bool
    custom: type[Custom] | None = None


class Place(NamedTuple):
    """The type allowed at one path: an annotation and its metadata."""

    annotation: Any
    metadata: Sequence[Any] = ()

    def choices(self) -> Choices | None:
        """Returns the classes to choose from by `name` or `class`, or None if there is no choice."""
        for mark in self.metadata:
            if isinstance(mark, ByName):
                return Choices(tuple(mark.names), mark.model, tagged=False, custom=mark.custom)
        found = [other for inner in self._alternatives() if (other := inner.choices())]
        if found:
            return found[0]
        models = self._models()
        if len(models) < 2:
            return None
        named = {name: model for model in models for name in names_of(model)}
        custom = next((model for model in models if issubclass(model, Custom)), None)
        return Choices(tuple(named), named.__getitem__, tagged=True, custom=custom)

    def model(self, value: Any) -> type[Section] | None:
        """Returns the class that validates `value` here, or None if `value` chooses none."""
        if choices := self.choices():
            if choices.custom is not None and isinstance(value, Mapping) and "class" in value:
                return choices.custom
            if not choices.names:  # the other form has no name either
                return next((model for model in self._models() if model is not choices.custom), None)
            name = value.get("name") if isinstance(value, Mapping) else None
            return choices.model(name) if isinstance(name, str) and name in choices.names else None
        models = self._models()
        return models[0] if len(models) == 1 else None

    def child(self, value: Any, key: str | int) -> Place | None:
        """Returns the place of a key or item of `value`, or None if it is unknown."""
        model = self.model(value)
        if model is not None:
            field = model.model_fields.get(str(key))
            return Place(field.annotation, field.metadata) if field else None
        for inner in self._alternatives():
            if (place := inner.child(value, key)) is not None:
                return place
        if get_origin(self.annotation) is dict:
            return Place(get_args(self.annotation)[1])
        if get_origin(self.annotation) in (list, tuple) and isinstance(key, int):
            return Place(get_args(self.annotation)[0])
        return None

    def _alternatives(self) -> list[Place]:
        origin, args = get_origin(self.annotation), get_args(self.annotation)
        if origin is Annotated:
            return [Place(args[0], args[1:])]
        return [Place(arg) for arg in args] if origin in (Union, UnionType) else []

    def _models(self) -> list[type[Section]]:
        if isinstance(self.annotation, type) and issubclass(self.annotation, Section):
            return [self.annotation]
        return [model for inner in self._alternatives() for model in inner._models()]


ROOT = Place(Config)


def at(path: Path, value: Any) -> tuple[Place | None, Any]:
    """Returns the place at a path of a configuration's raw value, and the value there.

    Example:
      >>> place, value = at(("model",), {"model": {"name": "mlp", "hidden": [8]}})
      >>> place.model(value).__name__
      'Mlp'
    """
    place: Place | None = ROOT
    for key in path:
        place = place.child(value, key) if place else None
        value = item(value, key)
    return place, value


def item(value: Any, key: str | int) -> Any:
    """Returns `value[key]` of a dict or list, or None if there is no such item."""
    if isinstance(value, Mapping):
        return value.get(key)
    inside = isinstance(value, list) and isinstance(key, int) and key < len(value)
    return value[int(key)] if inside else None
