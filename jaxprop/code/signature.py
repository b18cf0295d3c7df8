"""The arguments of a callable, and what a configuration gives of them: names, and the simple types, strictly."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections import abc
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError

from jaxprop.config.problems import described
from jaxprop.errors import did_you_mean

SCALARS = (int, float, bool, str, type(None))
LISTS: tuple[Any, ...] = (list, tuple, abc.Sequence, abc.Iterable)
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
Parameter = inspect.Parameter
SEVERAL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Wrong(NamedTuple):
    """The key of an argument, and what is wrong with it."""

    key: str
    what: str


class Signature(NamedTuple):
    """What a function or class takes when it is called.

    Args:
      parameters: by name, in order; without `self`, `*args` and `**kwargs`.
      rest: name of `**kwargs`, or None.
      known: whether Python knows the signature; some functions written in C have none, and take anything here.
      types: annotations of the parameters that are simple types.
    """

    parameters: Mapping[str, Parameter]
    rest: str | None
    known: bool
    types: Mapping[str, Any]

    @property
    def required(self) -> list[str]:
        """Names of the parameters without a default."""
        return [name for name, p in self.parameters.items() if p.default is Parameter.empty]


def signature_of(function: Callable[..., Any]) -> Signature:
    """Returns the signature of a function, or of a class when it is called.

    Args:
      function: any callable. A metaclass may hide the signature of a class, so that its `__init__` is read.

    Example:
      >>> def make(width: int, *, dropout: float = 0.0, **more): ...
      >>> found = signature_of(make)
      >>> found.required, found.rest, found.types
      (['width'], 'more', {'width': <class 'int'>, 'dropout': <class 'float'>})
    """
    if isinstance(function, functools.partial):
        return _without_given(signature_of(function.func), function)
    called, skip = _called(function)
    try:
        parameters = list(inspect.signature(called).parameters.values())[skip:]
    except (ValueError, TypeError):
        return Signature({}, "kwargs", False, {})
    named = {p.name: p for p in parameters if p.kind not in SEVERAL and not _is_linens_own(function, p.name)}
    rest = next((p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD), None)
    hints = _hints(called)
    simple = {name: _simple(hints.get(name, p.annotation)) for name, p in named.items()}
    return Signature(named, rest, True, {name: kind for name, kind in simple.items() if kind is not Any})


def _without_given(whole: Signature, function: functools.partial) -> Signature:
    """The signature of a partial, whose function may be a class."""
    rest = dict(list(whole.parameters.items())[len(function.args) :])
    given = {name: rest[name].replace(default=value) for name, value in function.keywords.items() if name in rest}
    return whole._replace(parameters=rest | given)


def _called(function: Any) -> tuple[Any, int]:
    """The function that is called in the end, and how many of its parameters are not the caller's."""
    if not isinstance(function, type):
        return function, 0
    made = next((kind for kind in function.__mro__ if {"__init__", "__new__"} & vars(kind).keys()), object)
    if made is object:
        return (lambda: None), 0
    name = "__init__" if "__init__" in vars(made) else "__new__"
    return getattr(inspect.getattr_static(made, name), "__func__", inspect.getattr_static(made, name)), 1


def _is_linens_own(function: Any, name: str) -> bool:
    """Whether a parameter is one of those that every Linen module has besides its author's."""
    if name not in ("parent", "name") or not isinstance(function, type):
        return False
    return any(kind.__module__.startswith("flax.linen") for kind in function.__mro__)


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation may name what exists for type checkers only
        return {}


def _simple(annotation: Any) -> Any:
    """The annotation as pydantic is to check it; Any for what YAML cannot write."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in SCALARS or annotation is None or origin is Literal:
        return annotation
    if origin is Annotated:
        return _simple(inner[0])
    if origin in (Union, types.UnionType):
        kinds = [_simple(kind) for kind in inner]
        return Any if Any in kinds else functools.reduce(operator.or_, kinds)
    if (annotation if origin is None else origin) not in LISTS:
        return Any
    if annotation is list or origin is list:
        return list.__class_getitem__(_simple(inner[0])) if inner else list
    # YAML has only lists, as in the schema's own sections.
    items: tuple[Any, ...] = tuple(kind if kind is ... else _simple(kind) for kind in inner) or (Any, ...)
    if inner and origin is not tuple:
        items = (*items, ...)
    return Annotated[tuple.__class_getitem__(items), Strict(False)]


def check_arguments(
    signature: Signature,
    given: Mapping[str, Any],
    supplied: Collection[str] = (),
    other: Collection[str] = (),
) -> tuple[dict[str, Any], list[Wrong]]:
    """Checks arguments as the schema checks its own keys.

    Args:
      signature: of what is going to be called.
      given: the arguments that a configuration gives.
      supplied: names of the arguments that jaxprop gives besides, where the signature has them.
      other: keys of the section that are not arguments, for suggestions.

    Returns:
      The arguments, lists as tuples where the annotation says so; and what is wrong.

    Example:
      >>> def make(width: int, *, rngs): ...
      >>> for wrong in check_arguments(signature_of(make), {"widht": 3}, ["rngs"])[1]:
      ...     print(f"{wrong.key}: {wrong.what}")
      widht: unknown key; did you mean 'width'?
      width: required key is missing
    """
    arguments, wrong = {}, []
    for name, value in given.items():
        if name not in signature.parameters and signature.rest is None:
            wrong.append(Wrong(name, "unknown key" + _meant(name, signature, supplied, other)))
            continue
        arguments[name], problems = _checked(signature.types.get(name, Any), value)
        wrong += [Wrong(".".join([name, *path]), what) for path, what in problems]
    missing = [name for name in signature.required if name not in given and name not in supplied]
    return arguments, wrong + [Wrong(name, "required key is missing") for name in missing]


def _meant(name: str, signature: Signature, supplied: Collection[str], other: Collection[str]) -> str:
    own = [known for known in signature.parameters if known not in supplied]
    return did_you_mean(name, [*own, *other]) or (f" (known: {', '.join(own)})" if own else "; it takes no arguments")


def _checked(kind: Any, value: Any) -> tuple[Any, list[tuple[list[str], str]]]:
    if kind is Any:
        return value, []
    try:
        return TypeAdapter(kind, config=STRICT).validate_python(value), []
    except ValidationError as error:
        return value, list(_told(error, value))


def _told(error: ValidationError, value: Any) -> Iterator[tuple[list[str], str]]:
    """What is wrong, once for each place: the alternatives of a union are one problem."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for one in error.errors(include_url=False):
        inside, path = value, []
        for part in one["loc"]:
            if isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                inside = inside[part]
                path.append(str(part))
        places.setdefault(tuple(path), []).append(one)
    deepest = max(map(len, places))
    for at, errors in places.items():
        if len(at) == deepest:
            yield list(at), described(errors) or errors[0]["msg"]
