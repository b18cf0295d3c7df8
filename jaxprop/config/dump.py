"""Writes a configuration as YAML that loads to an equal configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from jaxprop.config.locate import schema_comment
from jaxprop.config.schema.base import Section
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.data import BUNDLED, NO_PATHS, PATHS, CustomData
from jaxprop.config.yaml_loader import BOOL, FLOAT, INT, NULL


def dump(config: Config, folder: Path | None = None) -> str:
    """Writes a resolved configuration as YAML.

    Args:
      config: the configuration.
      folder: the folder of the file, for the comment that tells editors where the schema is.

    Returns:
      The text of the file, with every key except unset optional ones.

    Example:
      >>> from jaxprop.config.build import build
      >>> config = build({
      ...     "task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"},
      ...     "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"epochs": 1},
      ... })
      >>> print(dump(config).splitlines()[1])
      task: {name: classify}
    """
    body = yaml.dump(
        to_builtins(config), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )
    return f"{schema_comment(folder)}\n{body}"


def with_absolute_paths(config: Config) -> Config:
    """Returns a configuration whose data lie at absolute paths, so that it holds in any working directory.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "model": {"name": "mlp"}, "optimizer": {"name": "sgd", "lr": 0.1}}
      >>> config = build(sections | {"data": {"name": "arrays", "train": "a.npz"}, "run": {"steps": 1}})
      >>> Path(with_absolute_paths(config).data.train) == Path("a.npz").absolute()
      True
    """
    if isinstance(config.data, CustomData):
        return config  # what its arguments mean is not known here
    return config.model_copy(update={"data": _absolute(config.data)})


def _absolute(section: Section) -> Section:
    given = {name: getattr(section, name, None) for name in PATHS}
    absolute: dict[str, Any] = {
        name: str(Path(os.path.expanduser(path)).absolute())
        for name, path in given.items()
        if isinstance(path, str) and path not in NO_PATHS and not path.startswith(BUNDLED)
    }
    if (sources := getattr(section, "sources", None)) is not None:
        absolute["sources"] = tuple(_absolute(source) for source in sources)
    return section.model_copy(update=absolute)


def to_builtins(value: Any) -> Any:
    """Converts a section to dicts, lists and scalars, as YAML and JSON have them, without unset optional keys."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        names = sorted(fields, key=lambda name: name not in ("name", "class"))
        values = {name: getattr(value, name) for name in names}
        given = {name: v for name, v in values.items() if v is not None or fields[name].default is not None}
        return {name: to_builtins(v) for name, v in (given | (value.model_extra or {})).items()}
    if isinstance(value, Mapping):
        return {key: to_builtins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtins(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `yaml_loader` would read as another type, using the same expressions."""


_Dumper.yaml_implicit_resolvers = {}
for _kind, _pattern in {"null": NULL, "bool": BOOL, "int": INT, "float": FLOAT}.items():
    # anchored, because PyYAML accepts a match of a prefix
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern.pattern + r"\Z"), None)
