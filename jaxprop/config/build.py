"""Builds a checked `Config` from a plain mapping, and reports every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from jaxprop.config.checks import check
from jaxprop.config.custom import admit
from jaxprop.config.problems import sentences, shown
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Tree
from jaxprop.errors import ConfigError


def build(mapping: Mapping[str, Any], *, code: Sequence[str] = ()) -> Config:
    """Validates a mapping, such as one made by a sweep or in a notebook.

    Args:
      mapping: sections by name; plain dicts, lists and scalars.
      code: files and modules with code of the user's own that may be run; no other that the mapping names is.

    Returns:
      The configuration with every default filled in.

    Raises:
      ConfigError: all problems, one line each.

    Example:
      >>> config = build({
      ...     "task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"},
      ...     "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"epochs": 1},
      ... })
      >>> config.data.batch_size
      64
    """
    tree = Tree(mapping, {})
    return admit(build_tree(tree), tree, code, stored=True)


def build_tree(tree: Tree, problems: Sequence[str] = ()) -> Config:
    """Validates a tree, whose origins tell the user where each problem is.

    Args:
      tree: the configuration's raw values.
      problems: problems found earlier, to be reported together with those found here.

    Raises:
      ConfigError: all problems, one line each.
    """
    if not isinstance(tree.value, Mapping):
        sections = ", ".join(Config.model_fields)
        raise ConfigError([*problems, tree.problem((), f"expected the sections {sections}; got {shown(tree.value)}")])
    try:
        config = Config.model_validate(tree.value)
    except ValidationError as error:
        raise ConfigError([*problems, *sentences(error, tree)]) from None
    found = [tree.problem(problem.path, problem.what) for problem in check(config)]
    if problems or found:
        raise ConfigError([*problems, *found])
    return config
