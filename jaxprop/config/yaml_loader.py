"""Reads YAML with the scalars of YAML 1.2's core schema, and with the line of every value.

PyYAML itself follows YAML 1.1, in which `1e-3` is text, `no` is false, `010` is 8 and `12:30:45` is 45045.

Reference:
  YAML 1.2.2, section 10.3.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from jaxprop.config.tree import Path, Tree, dotted
from jaxprop.errors import ConfigError

Where = Callable[[int], str]  # 1-based line -> where a value was written

NULL = re.compile(r"(?:null|Null|NULL|~|)")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)")
FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
SHOWN = 60  # characters of a text that a message repeats
# What follows an unquoted text and looks like a part of a path: YAML takes it for a comment, and it would be lost.
GLUED = re.compile(r"#[^\s#./]*[./]")
MAX_DIGITS = 400  # more than any float64 has; Python refuses to read integers of more than 4300
MAX_VALUES, MAX_DEPTH, MAX_PATH = 20_000, 64, 2000  # values, how deep they are nested, characters of a dotted path


def scalar(text: str) -> str | int | float | bool | None:
    """Returns the value of an unquoted YAML scalar.

    Args:
      text: the scalar as written.

    Returns:
      None, a bool, an int, a float, or the text itself.

    Example:
      >>> [scalar(text) for text in ("1e-3", "010", "0o10", "no", "12:30:45", "~")]
      [0.001, 10, 8, 'no', '12:30:45', None]

    Reference:
      YAML 1.2.2, section 10.3.2.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        return text
    if INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if FLOAT.fullmatch(text):
        special = text.lower().endswith(("inf", "nan"))
        return float(text.replace(".", "", 1) if special else text)
    return text


def parse(text: str, file: str) -> Tree:
    """Reads the text of one YAML file.

    Args:
      text: the whole file.
      file: its name in messages.

    Returns:
      Its value, with the origin `file:line` of every key and item.

    Raises:
      ConfigError: the text is not YAML, or uses a feature that a config may not: tags, aliases, merge keys,
        several documents, duplicate keys; or is larger or deeper than any config.

    Example:
      >>> parse("run:\\n  seed: 0o10\\n", "a.yaml").value
      {'run': {'seed': 8}}
    """
    return _parse(text, lambda line: f"{file}:{line}")


def parse_value(text: str, origin: str) -> Tree:
    """Reads the value of an override, such as `3e-4`, `[64, 64]` or `{name: linear}`.

    Args:
      text: the text after the `=`.
      origin: where it was written, for messages.

    Returns:
      The value, in which everything has that origin.

    Raises:
      ConfigError: as `parse`.

    Example:
      >>> parse_value("{norm: 1}", "override 'optimizer.grad_clip={norm: 1}'").value
      {'norm': 1}
    """
    if "#" in text:
        return _with_hash(text, origin)
    return _parse(text, lambda _: origin)


def cut(text: str) -> str:
    """Returns what a message repeats of a text, which may be long.

    Example:
      >>> len(cut("#/" * 5000)), cut("short")
      (60, 'short')
    """
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _with_hash(text: str, origin: str) -> Tree:
    """Reads an override with a `#`, which no one means as a comment there: it is part of an unquoted text."""
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError:
        return _parse(text, lambda _: origin)  # with a sentence
    rest = text[0 if node is None else node.end_mark.index :].strip()
    if not rest.startswith("#"):
        return _parse(text, lambda _: origin)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None):
        return Tree(scalar(text.strip()), {"": origin})
    raise ConfigError(f"{origin}: {rest!r} is a comment in YAML; leave it out, or put quotes around the whole value")


def _parse(text: str, where: Where) -> Tree:
    try:
        node = _Loader(text).get_single_node()
        reader = _Reader(where, text)
        value = reader.read(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{where(mark.line + 1 if mark else 1)}: {_syntax(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{where(line)}: the control character {chr(error.character)!r} is not allowed in YAML; remove it"
        ) from None
    if reader.problems:
        raise ConfigError(reader.problems)
    return Tree(value, {"": where(1)} | reader.origins)


class _Refused(yaml.MarkedYAMLError):
    """The error for valid YAML that is not allowed in a config."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, used only up to the node graph; `_Reader` reads the values from the nodes."""

    count = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        self._check(event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _check(self, event: Any) -> None:
        """Refuses what would be more work than a configuration is worth, before it is done."""
        self.count += 1
        what = None
        if isinstance(event, yaml.AliasEvent):
            what = f"the alias '*{event.anchor}' is not allowed in a config; write the value out"
        elif self.depth >= MAX_DEPTH:
            what = f"lists or mappings are nested more than {MAX_DEPTH} deep"
        elif self.count > MAX_VALUES:
            what = f"a config has at most {MAX_VALUES:,} values"
        if (tag := getattr(event, "tag", None)) is not None:
            what = f"the tag {tag.replace('tag:yaml.org,2002:', '!!')!r} is not allowed in a config; remove it"
        if what is not None:
            raise _Refused(None, None, what, event.start_mark)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unreadable"
    if isinstance(error, _Refused):
        return problem
    if "single document" in problem or "single document" in (error.context or ""):
        return "a config is one YAML document; remove what follows the second '---'"
    if "'\\t'" in problem:
        return "YAML is indented with spaces; replace the tab"
    return f"not valid YAML: {problem}"


class _Reader:
    """Walks the node graph once and collects values, origins and problems."""

    def __init__(self, where: Where, text: str):
        self.where, self.text = where, text
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def read(self, node: yaml.Node, path: Path) -> object:
        if isinstance(node, yaml.ScalarNode):
            return self.plain(node) if node.style is None else node.value
        return self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)

    def plain(self, node: yaml.ScalarNode) -> object:
        value = scalar(node.value)
        if isinstance(value, str | None):
            self.check_comment(node)
        return value

    def check_comment(self, node: yaml.ScalarNode) -> None:
        end = self.text.find("\n", node.end_mark.index)
        rest = self.text[node.end_mark.index : end if end >= 0 else None].strip(" \t\r")
        if GLUED.match(rest) and len(rest.split(maxsplit=1)) == 1:
            whole = cut(f"{node.value} {rest}".strip())
            raise self.refuse(
                node, f"{cut(rest)} is a comment in YAML; quote the value, '{whole}', or write a space after the '#'"
            )

    def sequence(self, node: yaml.Node, path: Path) -> list:
        items = []
        for i, child in enumerate(node.value):
            self.origins[dotted((*path, i))] = self.where(child.start_mark.line + 1)
            items.append(self.read(child, (*path, i)))
        return items

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict:
        mapping: dict = {}
        lines: dict = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self.key(key_node, path)
            if key is None:
                continue
            if key in mapping:
                first = lines[key]
                what = f"written twice (first on line {first}); remove one"
                self.problems.append(f"{self.where(line)}: {dotted((*path, key))}: {what}")
                continue
            lines[key] = line
            name = dotted((*path, key))
            if len(name) > MAX_PATH:
                raise self.refuse(key_node, f"a key and those around it have more than {MAX_PATH:,} characters")
            self.origins[name] = self.where(line)
            mapping[key] = self.read(child, (*path, key))
        return mapping

    def key(self, node: yaml.Node, path: Path) -> str | int | None:
        scalar = isinstance(node, yaml.ScalarNode)
        key = self.read(node, path) if scalar else None
        if key == "<<" and node.start_mark.index + 2 == node.end_mark.index:  # unquoted
            what = "merge keys ('<<') are not supported; write the keys out, or inherit a file with 'base: other.yaml'"
        elif isinstance(key, str) or type(key) is int:
            return key
        else:
            what = f"a key must be text, got {node.value if scalar else 'a list or mapping'}"
        self.problems.append(": ".join(filter(None, (self.where(node.start_mark.line + 1), dotted(path), what))))
        return None

    def refuse(self, node: yaml.Node, what: str) -> _Refused:
        return _Refused(None, None, what, node.start_mark)
