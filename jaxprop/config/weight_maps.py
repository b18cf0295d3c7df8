"""Rules by which arrays of a checkpoint become parameters: of a configuration, of a file, or packaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jaxprop.config.locate import read
from jaxprop.config.problems import sentences
from jaxprop.config.schema.initial import MAPS, WeightMap
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import ConfigError, one_of

SUFFIXES = (".yaml", ".yml")


def weight_map(given: Any) -> WeightMap | None:
    """Returns the rules that `run.init_from.map` stands for.

    Args:
      given: the name of a packaged map, the path of a file, a list of rules, or patterns with names.

    Returns:
      The rules; None for patterns with names.

    Raises:
      ConfigError: there is no such map or file, or it holds no rules.

    Example:
      >>> weight_map("gpt2").rules[0].to, weight_map({"encoder/(.*)": "backbone/1"})
      ('embed/embedding', None)
    """
    if isinstance(given, Mapping):
        return None
    if not isinstance(given, str):
        return WeightMap.model_validate({"rules": given})
    if given in MAPS:
        return _of_file(Path(__file__).parent / "maps" / f"{given}.yaml")
    if problem := unknown(given):
        raise ConfigError(f"run.init_from.map: {problem}")
    return _of_file(Path(given).expanduser())


def unknown(name: str) -> str | None:
    """Returns what is wrong with the name of a map, or None.

    Example:
      >>> unknown("gtp2")[:43], unknown("rules.yaml")
      ("unknown map 'gtp2'; did you mean 'gpt2'? (k", None)
    """
    if name in MAPS or Path(name).suffix in SUFFIXES:
        return None
    return f"{one_of(name, MAPS, 'map')}, or a .yaml file of rules"


def _of_file(path: Path) -> WeightMap:
    tree = parse(read(path), str(path))
    if isinstance(tree.value, list):  # the rules alone
        within = {f"rules.{at}" if at else at: origin for at, origin in tree.origins.items()}
        tree = tree._replace(value={"rules": tree.value}, origins=within)
    try:
        return WeightMap.model_validate(tree.value)
    except ValidationError as error:
        raise ConfigError(sentences(error, tree)) from None
