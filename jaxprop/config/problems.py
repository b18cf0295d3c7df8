"""Turns pydantic's errors into sentences: the file and line, the dotted path, the problem and the likely fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jaxprop.config.places import ROOT, Place, at, item
from jaxprop.config.schema.optimizer import RENAMED
from jaxprop.config.tree import Path, Tree, dotted
from jaxprop.config.yaml_loader import cut, scalar
from jaxprop.errors import MOST_PROBLEMS, did_you_mean, one_of

# What was expected, by the type of pydantic's error; {…} is filled from its context.
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
}
MANY = 12  # largest number of names listed in a message


class Fault(NamedTuple):
    """One of pydantic's errors and its place in the configuration.

    Args:
      path: keys and items only; pydantic's own location also contains the alternatives that it tried.
      group: path of the value whose alternatives were tried, or None; errors of one group are one problem.
      error: pydantic's error.
    """

    path: Path
    group: Path | None
    error: ErrorDetails


def sentences(error: ValidationError, tree: Tree) -> list[str]:
    """Returns one line for each problem that pydantic found.

    Args:
      error: what validating `tree.value` raised.
      tree: the configuration's raw values and their origins.

    Returns:
      Lines `origin: dotted.path: what`, in the order of the configuration's classes.
    """
    faults = [_fault(one, tree.value) for one in error.errors(include_url=False)]
    lines = []
    for group, members in _grouped(faults)[: MOST_PROBLEMS + 1]:  # each is compared with every name that was meant
        path = max((fault.path for fault in members), key=len) if group is not None else members[0].path
        deepest = [fault for fault in members if fault.path == path]
        lines.append(_line(deepest, tree))
    return list(dict.fromkeys(lines))


def _grouped(faults: Iterable[Fault]) -> list[tuple[Path | None, list[Fault]]]:
    groups: dict[Any, tuple[Path | None, list[Fault]]] = {}
    for i, fault in enumerate(faults):
        key = i if fault.group is None else fault.group
        groups.setdefault(key, (fault.group, []))[1].append(fault)
    return list(groups.values())


def _fault(error: ErrorDetails, value: Any) -> Fault:
    """Walks pydantic's location down the raw value, dropping tags and the names of alternatives."""
    place: Place | None = ROOT
    path: Path = ()
    group: Path | None = None
    tag_next = False
    for i, part in enumerate(error["loc"]):
        last = i == len(error["loc"]) - 1
        if tag_next:
            tag_next = False
            continue
        if not _holds(value, part) and not (last and error["type"] == "missing"):
            group = path
            continue
        place = place.child(value, part) if place else None
        value = item(value, part)
        path = (*path, part)
        choices = place.choices() if place else None
        tag_next = choices is not None and choices.tagged
    return Fault(path, group, error)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _line(faults: list[Fault], tree: Tree) -> str:
    path, kind = faults[0].path, faults[0].error["type"]
    if kind == "missing":
        return _missing(path, tree)
    if kind == "union_tag_not_found":
        return _missing((*path, "name"), tree)
    if kind == "extra_forbidden":
        return tree.problem(path, "unknown key" + _meant(path, tree.value))
    if kind == "union_tag_invalid":
        return _unknown_name(path, tree)
    if kind == "invalid_key":
        return tree.problem(path, f"a key must be text, got {path[-1]!r}")
    errors = [fault.error for fault in faults]
    what = described(errors)
    if what is None:
        return tree.problem(_blamed(path, tree), _message(errors[0]))
    given = errors[0]["input"]
    if path[-1:] == ("test",) and isinstance(given, float):
        return tree.problem(path, f"{what}; name a file or a folder, since here only data.validation takes a fraction")
    return tree.problem(path, what + (_optional(path, tree) if given is None else _key_of(path, tree)))


def described(errors: Sequence[ErrorDetails]) -> str | None:
    """Returns what is wrong with one value: what was expected, and what it is; None where pydantic says it itself.

    Args:
      errors: of the alternatives that were tried.

    Example:
      >>> from pydantic import TypeAdapter
      >>> try:
      ...     TypeAdapter(int | bool).validate_python("7", strict=True)
      ... except ValidationError as error:
      ...     print(described(error.errors()))
      expected a whole number or true or false, got '7'; remove the quotes
    """
    phrases = [_expected(error) for error in errors]
    if not all(phrases):
        return None
    got = errors[0]["input"]
    what = " or ".join(dict.fromkeys(phrase for phrase in phrases if phrase))
    return f"expected {what}, got {shown(got)}{_hint(got, errors[0])}"


def _blamed(path: Path, tree: Tree) -> Path:
    """Returns the path of the section's `name` if that is unknown, otherwise the path itself."""
    place, value = at(path, tree.value)
    custom = isinstance(value, Mapping) and "class" in value
    choices = place.choices() if place else None
    return (*path, "name") if choices and item(value, "name") not in choices.names and not custom else path


def _expected(error: ErrorDetails) -> str | None:
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()}
    phrase = EXPECTED.get(error["type"])
    return phrase.format(**context) if phrase else None


def _message(error: ErrorDetails) -> str:
    """Returns the message of a validator, or pydantic's own for an error that is not in `EXPECTED`."""
    text = error["msg"].removeprefix("Value error, ")
    return text.replace("Input should be", "expected", 1) if text.startswith("Input should be") else text


def _missing(path: Path, tree: Tree) -> str:
    place, _ = at(path[:-1], tree.value)
    choices = place.choices() if place and path[-1] == "name" else None
    inner = place.child(item(tree.value, path[0]) if len(path) > 1 else tree.value, path[-1]) if place else None
    if choices is None and inner is not None and inner.choices():
        return tree.problem(path, f"required section is missing; write '{path[-1]}: {{name: ...}}'{_some(inner)}")
    what = "required section is missing" if len(path) == 1 else "required key is missing"
    if path == ("run",):
        what += "; write 'run: {epochs: 10}' or 'run: {steps: 1000}'"
    return tree.problem(path, what + (_some(place) if place and choices else ""))


def _some(place: Place) -> str:
    choices = place.choices()
    if not choices:
        return ""
    more = ", ..." if len(choices.names) > MANY else ""
    custom = "; or class, for code of your own" if choices.custom else ""
    return f" (one of {', '.join(choices.names[:MANY])}{more}{custom})"


def _unknown_name(path: Path, tree: Tree) -> str:
    place, value = at(path, tree.value)
    choices = place.choices() if place else None
    name = item(value, "name")
    if not isinstance(name, str) or choices is None:
        return tree.problem((*path, "name"), f"expected text, got {shown(name)}")
    what = [part for part in path if isinstance(part, str)][-1]
    if len(choices.names) <= MANY:
        return tree.problem((*path, "name"), one_of(name, choices.names, what))
    return tree.problem((*path, "name"), f"unknown {what} {name!r}{did_you_mean(name, choices.names)}")


def _meant(path: Path, value: Any) -> str:
    """Suggests the section that has the key, otherwise the most similar key of the same mapping, or lists all keys."""
    place, parent = at(path[:-1], value)
    model = place.model(parent) if place else None
    known = list(model.model_fields) if model else []
    key = str(path[-1])
    if key in RENAMED and RENAMED[key] in known:
        return f"; did you mean {RENAMED[key]!r}?"
    if elsewhere := _elsewhere(key, value):
        return f"; did you mean {dotted(elsewhere)!r}?"
    if near := did_you_mean(key, known):
        return near
    return f" (known: {', '.join(known)})" if known else ""


def _elsewhere(key: str, value: Any) -> Path | None:
    for section in ("optimizer", "run", "data", "model", "precision", "checkpoint", "sinks", "task"):
        place, inner = at((section,), value)
        model: type[BaseModel] | None = place.model(inner) if place else None
        if model is not None and key in model.model_fields:
            return (section, key)
    return None


def shown(value: Any) -> str:
    """Returns a value as it is shown in a message.

    Example:
      >>> shown(True), shown(None), shown("seven"), shown([1])
      ('true', 'nothing', "'seven'", 'a list')
    """
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return cut(repr(value))


SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "half": "float16", "single": "float32"}


def _hint(value: Any, error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and type(scalar(value)) in (int, float):
        return "; remove the quotes"
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "no", "off"):
        return f"; write {'true' if str(value).lower() in ('yes', 'on') else 'false'}"
    if kind == "literal_error" and isinstance(value, str):
        known = [name.strip("' ") for name in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"; write {SHORT[value]}" if SHORT.get(value) in known else did_you_mean(value, known)
    return ""


def _key_of(path: Path, tree: Tree) -> str:
    """Says how to write what was given for a whole section: `precision.policy` takes `bfloat16`; `run.steps=5`."""
    place, value = at(path, tree.value)
    if place is None or not isinstance(value, str):
        return ""
    choices, model = place.choices(), place.model(value)
    if choices is not None:
        key = "name" if value in choices.names else None
    else:
        fields = model.model_fields if model else {}
        key = next((name for name, field in fields.items() if value in get_args(field.annotation)), None)
        name, sign, rest = (part.strip() for part in value.replace(":", "=", 1).partition("="))
        if key is None and sign and name in fields:
            override, line = f"{dotted((*path, name))}={rest}", f"{name}: {rest}"
            return f"; write {cut(override)} as an override, {{{cut(line)}}} in a file"
    return f"; the key for it is {dotted((*path, key))!r}" if key else ""


def _optional(path: Path, tree: Tree) -> str:
    place, parent = at(path[:-1], tree.value)
    model = place.model(parent) if place else None
    field = model.model_fields.get(str(path[-1])) if model else None
    return "; remove the key to use the default" if field and not field.is_required() else ""
