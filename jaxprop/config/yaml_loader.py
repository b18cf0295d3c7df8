"""Reads YAML with the scalars of YAML 1.2's core schema, and with the line of every value.

PyYAML itself follows YAML 1.1, in which `1e-3` is text, `no` is false, `010` is 8 and `12:30:45` is 45045.

Reference:
  YAML 1.2.2, section 10.3.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution
"""

from __future__ import annotations

import re
from collections.abc import Callable

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
# What follows an unquoted text and looks like a part of a path: YAML takes it for a comment, and it would be lost.
GLUED = re.compile(r"[ \t]*(#[^\s#]*[./][^\s]*)[ \t]*$", re.MULTILINE)
MAX_DIGITS = 400  # more than any float64 has; Python refuses to read integers of more than 4300
MAX_VALUES = 20_000  # with aliases expanded, because a few lines of nested aliases can expand to gigabytes


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
      ConfigError: the text is not YAML, or uses a feature that a config may not: tags, merge keys, several
        documents, duplicate keys, recursive aliases.

    Example:
      >>> parse("run:\\n  seed: 0o10\\n", "a.yaml").value
      {'run': {'seed': 8}}
    """
    return _parse(text, lambda line: f"{file}:{line}", file)


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
    return _parse(text, lambda _: origin, origin)


def _with_hash(text: str, origin: str) -> Tree:
    """Reads an override with a `#`, which no one means as a comment there: it is part of an unquoted text."""
    try:
        node = _Loader(text).get_single_node()
    except (yaml.YAMLError, RecursionError):
        return _parse(text, lambda _: origin, origin)  # with a sentence
    rest = text[0 if node is None else node.end_mark.index :].strip()
    if not rest.startswith("#"):
        return _parse(text, lambda _: origin, origin)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None):
        return Tree(scalar(text.strip()), {"": origin})
    raise ConfigError(f"{origin}: {rest!r} is a comment in YAML; leave it out, or put quotes around the whole value")


def _parse(text: str, where: Where, whole: str) -> Tree:
    try:
        node = _Loader(text).get_single_node()
        reader = _Reader(where, text)
        value = reader.read(node, ()) if node is not None else None
    except RecursionError:
        raise ConfigError(f"{whole}: lists or mappings are nested too deeply") from None
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

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if (tag := getattr(event, "tag", None)) is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(None, None, f"the tag {shown!r} is not allowed in a config; remove it", event.start_mark)
        return super().compose_node(parent, index)


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
        self.count = 0
        self.open: set[int] = set()

    def read(self, node: yaml.Node, path: Path) -> object:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.refuse(node, f"more than {MAX_VALUES} values after expanding aliases (*name)")
        if isinstance(node, yaml.ScalarNode):
            return self.plain(node) if node.style is None else node.value
        if id(node) in self.open:
            raise self.refuse(node, "an alias (*name) refers to the value that contains it")
        self.open.add(id(node))
        value = self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
        self.open.remove(id(node))
        return value

    def plain(self, node: yaml.ScalarNode) -> object:
        value = scalar(node.value)
        cut = GLUED.match(self.text, node.end_mark.index) if isinstance(value, str | None) else None
        if cut is not None:
            whole = f"{node.value} {cut[1]}".strip()
            raise self.refuse(
                node, f"{cut[1]} is a comment in YAML; quote the value, '{whole}', or write a space after the '#'"
            )
        return value

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
            self.origins[dotted((*path, key))] = self.where(line)
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
