"""Merges a file over the file that it inherits from, and overrides over files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxprop.config.places import ROOT, Place
from jaxprop.config.problems import shown
from jaxprop.config.tree import Path, Tree, dotted
from jaxprop.config.yaml_loader import MAX_DEPTH, parse_value
from jaxprop.errors import ConfigError

# Setting one of these drops the other if it is inherited, because a run has only one length.
EXCLUSIVE: dict[Path, str] = {("run", "steps"): "epochs", ("run", "epochs"): "steps"}


def merge(old: Tree, new: Tree) -> Tree:
    """Merges one tree over another.

    Mappings are merged key by key; any other value replaces the inherited one. If `new` changes a `name` that
    chooses a class (`model.name`, `optimizer.name`, ...), only the inherited keys that the new class has are
    kept; if it changes one `class` with code of the user's own to another, all of them are. `run.steps` drops an
    inherited `run.epochs`, and vice versa. Items of a list are addressed by index:
    `{"groups": {"0": {"lr_scale": 2}}}`.

    Args:
      old: the inherited tree.
      new: the tree that takes precedence.

    Returns:
      The merged tree; each value keeps its origin.

    Raises:
      ConfigError: a numbered item does not exist.

    Example:
      >>> old = Tree({"model": {"name": "cnn", "channels": [8], "dropout": 0.1}}, {})
      >>> merge(old, Tree({"model": {"name": "mlp"}}, {})).value
      {'model': {'name': 'mlp', 'dropout': 0.1}}
    """
    value = _merge(old.value, new.value, ROOT, (), new)
    kept = {path: origin for path, origin in old.origins.items() if _holds(value, path)}
    return Tree(value, kept | new.origins)


def left_out(old: Tree, merged: Tree) -> list[str]:
    """Returns, a line each, the keys of sections that another `name` has dropped, which might be missed.

    Args:
      old: the inherited tree.
      merged: that tree with another over it.

    Example:
      >>> from jaxprop.config.yaml_loader import parse
      >>> old = parse("optimizer: {name: adamw, lr: 1e-3, b2: 0.95}", "a.yaml")
      >>> left_out(old, merge(old, overrides_tree(["optimizer.name=sgd"])[0]))
      ['optimizer.name: sgd has no b2, so that of a.yaml:1 (0.95) is left out']
    """
    return list(_left_out(old, old.value, merged.value, ()))


def _left_out(tree: Tree, old: Any, new: Any, path: Path) -> Iterator[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return
    name = new.get("name")
    if "name" in old and isinstance(name, str) and name != old["name"]:
        for key in [key for key in old if key not in new and old[key] is not None]:
            of = f"that of {tree.origin((*path, key))} ({shown(old[key])})"
            yield f"{dotted((*path, 'name'))}: {name} has no {key}, so {of} is left out"
    for key, value in old.items():
        yield from _left_out(tree, value, new.get(key), (*path, key))


def _holds(value: Any, path: str) -> bool:
    for key in path.split(".") if path else []:
        if isinstance(value, list) and _is_index(key) and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return False
    return True


def _merge(old: Any, new: Any, place: Place | None, path: Path, source: Tree) -> Any:
    """Merges two values; where `place` is None, as for overrides among themselves, no inherited key is dropped."""
    if not isinstance(new, dict):
        return new
    if isinstance(old, list) and new and all(_is_index(key) for key in new):
        return _merge_items(old, new, place, path, source)
    if not isinstance(old, dict):
        return new
    kept = _kept(old, new, place, path)
    merged = dict(kept)
    for key, value in new.items():
        inner = place.child({**kept, **new}, key) if place else None
        merged[key] = _merge(kept.get(key), value, inner, (*path, key), source)
    return merged


def _merge_items(old: list, new: dict, place: Place | None, path: Path, source: Tree) -> list:
    items = list(old)
    for key, value in new.items():
        index = int(key)
        if index >= len(items):
            what = f"there is no item {index}; the list has {len(items)}, counted from 0"
            raise ConfigError(source.problem((*path, key), what))
        inner = place.child(old, index) if place else None
        items[index] = _merge(items[index], value, inner, (*path, index), source)
    return items


def _is_index(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10


def _kept(old: dict, new: dict, place: Place | None, path: Path) -> dict:
    kept = dict(old)
    for key in new:
        other = EXCLUSIVE.get((*path, key))
        if place and other is not None and other not in new and new[key] is not None:
            kept.pop(other, None)
    chosen, before = _choice(new), _choice(old)
    if not chosen or not before or chosen == before:
        return kept
    if chosen[0] == before[0] == "class":  # what arguments the new code has is not known here
        kept.pop("class_sha256", None)
    elif place and place.choices() and (model := place.model(new)):
        kept = {key: value for key, value in kept.items() if key in model.model_fields and key not in model.refused()}
    return kept


def _choice(section: dict) -> tuple[str, Any] | None:
    """What chooses the class of a section: its `class` or its `name`, and the value."""
    return next(((key, section[key]) for key in ("class", "name") if key in section), None)


def overrides_tree(overrides: Sequence[str]) -> tuple[Tree, list[str]]:
    """Reads `key=value` overrides into one tree; a later override takes precedence.

    Args:
      overrides: such as `optimizer.lr=3e-4` or `model.hidden=[64, 64]`.

    Returns:
      The tree, and one line for each override that cannot be read.

    Example:
      >>> overrides_tree(["run.seed=1", "run.steps=1e2"])[0].value
      {'run': {'seed': 1, 'steps': 100.0}}
    """
    tree, problems = Tree({}, {}), []
    for text in overrides:
        try:
            new = _override(text)
            tree = Tree(_merge(tree.value, new.value, None, (), new), tree.origins | new.origins)
        except ConfigError as error:
            problems += error.problems
    return tree, problems


def _override(text: str) -> Tree:
    origin = f"override {text!r}"
    key, equals, written = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{origin}: expected key=value, such as optimizer.lr=3e-4")
    if len(keys) > MAX_DEPTH:
        raise ConfigError(f"{origin[:80]}...': more than {MAX_DEPTH} keys within each other")
    if keys[0] == "base":
        raise ConfigError(f"{origin}: base can only be set in a file; write 'base: other.yaml' there")
    inner = parse_value(written, origin)
    value = inner.value
    for part in reversed(keys):
        value = {part: value}
    path = ".".join(keys)
    return Tree(value, {f"{path}.{rest}" if rest else path: origin for rest in inner.origins})
