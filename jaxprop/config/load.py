"""A config file, what it inherits and the overrides on the command line, read into one `Config`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxprop.config.build import build_tree
from jaxprop.config.find import find, read
from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Tree
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import ConfigError


class Loaded(NamedTuple):
    """A configuration and where it came from.

    Args:
      config: the checked configuration.
      name: the run's default name: the file's stem, or its folder's name for a run's `config.yaml`.
      path: the file.
      text: the file's text, with its comments.
      files: the file and the ones it inherits from, nearest first.
      overrides: what the command line changed.
    """

    config: Config
    name: str
    path: Path
    text: str
    files: tuple[Path, ...]
    overrides: tuple[str, ...]


def load(path_or_name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded:
    """Reads a config file, lays overrides over it, and checks the result.

    A file may inherit from another with `base: other.yaml`, a path relative to itself or a packaged config's
    name. How files and overrides are laid over what they inherit is `merge.merge`'s to say.

    Args:
      path_or_name: a YAML file, or the bare name of a packaged config.
      overrides: `key=value`, in any order; values are YAML: `optimizer.lr=3e-4`, `model.hidden=[64, 64]`.

    Returns:
      The configuration with every default filled in, and where it came from.

    Raises:
      ConfigError: every problem there is, one line each: `file:line: dotted.path: what; did you mean 'x'?`.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.yaml"
      >>> _ = file.write_text('''
      ... task: {name: classify}
      ... data: {name: digits}
      ... model: {name: mlp}
      ... optimizer: {name: sgd, lr: 1e-1}
      ... run: {epochs: 1}
      ... ''')
      >>> loaded = load(file, ["run.seed=7"])
      >>> loaded.name, loaded.config.run.seed, loaded.config.optimizer.lr
      ('small', 7, 0.1)
    """
    path = find(path_or_name)
    tree, files, text = _chain(path, ())
    patch, problems = overrides_tree(overrides)
    config = build_tree(merge(tree, patch), problems)
    return Loaded(config, _name(path), path, text, files, tuple(overrides))


def _chain(path: Path, above: tuple[Path, ...]) -> tuple[Tree, tuple[Path, ...], str]:
    """Reads a file over all that it inherits; `above` are the files that led here."""
    text = read(path)
    tree = parse(text, str(path))
    if not isinstance(tree.value, dict):
        build_tree(tree)  # raises the sentence for it
    base = tree.value.pop("base", None)
    if base is None:
        return tree, (path,), text
    if not isinstance(base, str):
        raise ConfigError(tree.problem(("base",), "expected the name of a YAML file"))
    try:
        inherited = find(base, path.parent)
    except ConfigError as error:
        raise ConfigError(tree.problem(("base",), str(error))) from None
    chain = (*above, path)
    if inherited.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, inherited))
        raise ConfigError(tree.problem(("base",), f"files inherit from each other in a circle: {circle}"))
    old, files, _ = _chain(inherited, chain)
    return merge(old, tree), (path, *files), text


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem
