"""Reads a config file, the files it inherits from and command-line overrides into one `Config`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxprop.config.build import build_tree
from jaxprop.config.custom import admit, check_repeated
from jaxprop.config.locate import locate, locate_base, read
from jaxprop.config.merge import left_out, merge, overrides_tree
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Tree
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import ConfigError

LONGEST_CHAIN = 16  # of files that inherit from each other


class Loaded(NamedTuple):
    """A configuration and where it came from.

    Args:
      config: the checked configuration.
      name: the run's default name: the file's stem, or its folder's name for a run's `config.yaml`.
      path: the file.
      left_out: a line for each key of the file that an override of a `name` has dropped.
    """

    config: Config
    name: str
    path: Path
    left_out: tuple[str, ...] = ()


def load(
    path_or_name: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    code: Sequence[str] = (),
    *,
    stored: bool = False,
) -> Loaded:
    """Reads a config file, applies overrides, and checks the result.

    A file may inherit from another with `base: other.yaml`, a path relative to itself, in its folder or in the
    working directory, or a packaged config's name. `merge.merge` defines how a file is merged over its base, and
    overrides over the file.

    Args:
      path_or_name: a YAML file, or the bare name of a packaged config.
      overrides: `key=value`, in any order; values are YAML: `optimizer.lr=3e-4`, `model.hidden=[64, 64]`.
      code: files and modules with code of the user's own that may be run although a run has stored the configuration.
      stored: whether a run has stored it; by default, a `config.yaml` beside what a run writes is taken for one.

    Returns:
      The configuration with every default filled in, and its file.

    Raises:
      ConfigError: all problems, one line each: `file:line: dotted.path: what; did you mean 'x'?`.

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
    path = locate(path_or_name)
    patch, problems = overrides_tree(overrides)
    file = _inherited(path, ())
    tree = merge(file, patch)
    config = build_tree(tree, problems)
    check_repeated(config, code, str(path))
    return Loaded(admit(config, tree, code, stored=stored), _name(path), path, tuple(left_out(file, tree)))


def _inherited(path: Path, above: tuple[Path, ...]) -> Tree:
    """Reads a file and merges it over everything it inherits; `above` are the files that inherit from it."""
    tree = parse(read(path), str(path))
    if not isinstance(tree.value, dict):
        build_tree(tree)  # raises the error for a file that is not a mapping
    base = tree.value.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(tree.problem(("base",), "expected the name of a YAML file"))
    try:
        inherited = locate_base(base, path.parent)
    except ConfigError as error:
        raise ConfigError(tree.problem(("base",), str(error))) from None
    chain = (*above, path)
    if inherited.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, inherited))
        raise ConfigError(tree.problem(("base",), f"files inherit from each other in a circle: {circle}"))
    if len(chain) > LONGEST_CHAIN:
        raise ConfigError(tree.problem(("base",), f"more than {LONGEST_CHAIN} files inherit from each other"))
    return merge(_inherited(inherited, chain), tree)


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem
