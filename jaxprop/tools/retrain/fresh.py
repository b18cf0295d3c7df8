"""The new data: which section reads them, whether they fit the champion, and what they are called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop import data
from jaxprop.config.build import build_tree
from jaxprop.config.dump import to_builtins, with_absolute_paths
from jaxprop.config.locate import read
from jaxprop.config.merge import merge
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.data import BUNDLED, NO_PATHS, PATHS, CustomData, DataSection, Mixture
from jaxprop.config.tree import Tree
from jaxprop.config.yaml_loader import parse
from jaxprop.data.alike import Alike, alike_of, class_names, listed, open_alike, with_classes
from jaxprop.data.readers.mixture import PADDED
from jaxprop.errors import ConfigError, DataError, UsageError
from jaxprop.run.opened import Opened
from jaxprop.types import Source

YAML = (".yaml", ".yml")
_BATCHES = (*DataSection.model_fields, "engine", "workers")  # keys that a mixture has of its own


class Fresh(NamedTuple):
    """New data that fit a champion.

    Args:
      section: the config's `data` section that reads them, with absolute paths.
      sources: their splits, prepared as the champion's data; `train` is among them.
      new_classes: names of classes that the champion does not know, with which they were opened.
      known: number of classes that the champion knows; None where there are none.
      alike: what prepares them.
    """

    section: Any
    sources: dict[str, Source]
    new_classes: tuple[str, ...]
    known: int | None
    alike: Alike


def sections_of(config: Config) -> list[Any]:
    """Returns the sections of a champion's data, one for each source."""
    return list(config.data.sources) if isinstance(config.data, Mixture) else [config.data]


def new_section(config: Config, new: str) -> Any:
    """Returns the `data` section that reads new data.

    Args:
      config: of the champion.
      new: a file or folder in the format of the champion's data, which takes the place of its paths; or a YAML file
        with a section `data`, merged over the champion's.

    Raises:
      UsageError: there is no such path, or it cannot take the place of the champion's.
      ConfigError: the YAML file is not a valid section.
    """
    base = sections_of(config)[0]
    if isinstance(base, CustomData):
        raise UsageError(
            "the champion's data are code of your own, which cannot be mixed with others; write them to files that a "
            "built-in data.name reads, and train on these"
        )
    path = Path(new).expanduser()
    if path.suffix in YAML and path.is_file():
        return _of_yaml(config, base, path)
    return _with_path(config, base, path)


def _of_yaml(config: Config, base: Any, path: Path) -> Any:
    tree = parse(read(path), str(path))
    if not isinstance(tree.value, dict) or not isinstance(tree.value.get("data"), dict):
        raise ConfigError(f"{path}: expected a section data, such as data: {{name: {base.name}, ...}}")
    given = Tree({"data": tree.value["data"]}, {k: v for k, v in tree.origins.items() if k.startswith("data")})
    made = build_tree(merge(Tree(_around(config, base), {}), given))
    if isinstance(made.data, Mixture | CustomData):
        raise ConfigError(f"{path}: data: expected one source of new data, got {made.data.name}; name one")
    return with_absolute_paths(made).data


def _with_path(config: Config, base: Any, path: Path) -> Any:
    if not path.exists():
        raise UsageError(f"--data {path}: there is no such file or folder")
    given = {
        key: held
        for key in PATHS
        if key not in ("tokenizer", "prepared_by")
        and isinstance(held := getattr(base, key, None), str)
        and held not in NO_PATHS
    }
    if not given:
        raise UsageError(
            f"--data {path}: the champion's data are made by data.name: {base.name}, which reads no files; give a YAML "
            "file with a section data instead, such as data: {data_seed: 7}"
        )
    changed = base.model_copy(update=_replaced(given, path))
    return with_absolute_paths(build_tree(Tree(_around(config, changed), {}))).data


def _around(config: Config, section: Any) -> dict[str, Any]:
    """The champion's configuration with another section of data, without what needs a split to evaluate on."""
    plain = {**to_builtins(config), "data": to_builtins(section)}
    for name, keys in (("run", ("eval_every", "eval_batches", "stop")), ("checkpoint", ("best", "mode"))):
        plain[name] = {key: value for key, value in plain[name].items() if key not in keys}
    return plain


def _replaced(given: Mapping[str, str], path: Path) -> dict[str, str | None]:
    """New paths in the place of the champion's, which lie as those did below one folder; or one path alone."""
    if len(given) > 1 and path.is_dir() and not any(held.startswith(BUNDLED) for held in given.values()):
        common = os.path.commonpath([os.path.abspath(os.path.expanduser(held)) for held in given.values()])
        root = Path(common) if Path(common).is_dir() or not Path(common).suffix else Path(common).parent
        below = {key: path / os.path.relpath(os.path.abspath(os.path.expanduser(h)), root) for key, h in given.items()}
        missing = [str(place) for key, place in below.items() if key.startswith("train") and not place.exists()]
        if not missing:
            return {key: str(place) if place.exists() else None for key, place in below.items()}
    if "train" not in given:
        raise UsageError(
            f"--data {path}: the champion's data are {', '.join(given)}; give a folder that holds files of the same "
            "names, or a YAML file with a section data"
        )
    return {"train": str(path)} | {key: None for key in given if key not in ("train", "root")}


def open_fresh(opened: Opened, section: Any, *, new_classes: bool) -> Fresh:
    """Opens new data by what the champion has learned of its own, and checks that they fit it.

    Args:
      opened: the champion.
      section: from `new_section`.
      new_classes: whether classes that it does not know may be added to its own.

    Raises:
      DataError: they are of another format, task or size; they hold a class that the champion does not know; or they
        have no training examples.
    """
    task, prepared = opened.config.task.name, opened.prepared
    alike = alike_of(prepared.info, prepared.prepared)
    known, unknown = class_names(alike.info, task), unknown_classes(section, task, alike)
    if unknown and not new_classes:
        raise DataError(
            f"the new data have {listed(unknown)}, which the champion does not know (it knows {listed(known or [])}); "
            "correct these labels, or add the classes with --new-classes"
        )
    alike = with_classes(alike, unknown, task)
    sources = open_alike(data.open_sources, section, task, alike)
    if "train" not in sources or not sources["train"].length:
        raise DataError("the new data hold no training examples")
    _check_shapes(sources["train"], prepared.example, task)
    return Fresh(section, sources, tuple(unknown), None if known is None else len(known), alike)


def unknown_classes(section: Any, task: str, alike: Alike) -> list[str]:
    """Returns the names of classes that new training data have and a champion does not know.

    Args:
      section: the config's `data` section that reads them.
      task: its name.
      alike: of the champion.
    """
    known = class_names(alike.info, task)
    if known is None:
        return []
    # Training data alone: a known class that only the new test data have is no class of these by themselves.
    changed = dict.fromkeys(("classes", "test", "test_images"))
    if isinstance(section.validation, str):
        changed |= dict.fromkeys(("validation", "validation_images"))
    fields = type(section).model_fields
    alone = section.model_copy(update={key: value for key, value in changed.items() if key in fields})
    try:
        own = class_names(data.open_sources(alone, task)["train"].info, task)
    except DataError:  # such as data of one class, which nobody could learn from alone
        return []
    return [name for name in own or [] if name not in known]


def require_test(fresh: Fresh) -> None:
    """Raises DataError where new data have no test examples."""
    if "test" in fresh.sources and fresh.sources["test"].length:
        return
    fix = (
        f"give a YAML file with a section data that names them, such as data: {{name: {fresh.section.name}, "
        "train: ..., test: ...}, or a folder that holds files of the same names as the champion's"
        if "test" in type(fresh.section).model_fields
        else "use data that have"
    )
    raise DataError(f"the new data have no test examples, by which champion and challenger could be compared; {fix}")


def _check_shapes(train: Source, example: Mapping[str, Any], task: str) -> None:
    """Raises DataError where new examples have another shape than the champion takes."""
    found = train.take(np.zeros(1, np.int64))
    for name, wanted in example.items():
        given = found.get(name)
        if name in ("weight", "labels", *PADDED.get(task, ())) or isinstance(wanted, Mapping):
            continue
        if given is None or given.shape[1:] != tuple(wanted.shape) or given.dtype != wanted.dtype:
            got = "none" if given is None else f"{given.dtype}{list(given.shape[1:])}"
            raise DataError(
                f"the new data have {name} {got}, but the champion takes {np.dtype(wanted.dtype)}{list(wanted.shape)}; "
                "prepare them as its own"
            )


def refuse_same(fresh: Fresh, old: Sequence[tuple[Any, str]]) -> None:
    """Raises DataError where new data are among those that the champion was trained on.

    Args:
      fresh: the new data.
      old: section and fingerprint of each source of the champion's, prepared as the new data are.
    """
    for section, fingerprint in old:
        if fingerprint == fresh.sources["train"].fingerprint:
            where = getattr(section, "train", None) or section.name
            raise DataError(
                f"the new data are the champion's own ({where}): the fingerprints of their training examples are the "
                "same; give data that it has not seen"
            )


def mixed_section(
    config: Config, fresh: Fresh, lengths: Sequence[int], replay: float, champion: Path
) -> dict[str, Any]:
    """Returns the `data` section of a challenger as plain values: the champion's sources and the new one, mixed.

    Args:
      config: of the champion; the sources of its own mixture stay apart.
      fresh: the new data.
      lengths: number of training examples of each source of the champion's.
      replay: share of old examples; each source has one in proportion to its number of examples.
      champion: folder of its run.
    """
    batches = {key: value for key, value in to_builtins(config.data).items() if key in _BATCHES}
    total = sum(lengths)
    made = {
        **batches,
        "name": "mixture",
        "sources": [to_builtins(one) for one in (*sections_of(with_absolute_paths(config)), fresh.section)],
        "weights": [*(replay * length / total for length in lengths), 1.0 - replay],
        "prepared_by": str(champion.absolute()),
    }
    if isinstance(config.data.validation, str):
        del made["validation"]
    return made | ({"new_classes": list(fresh.new_classes)} if fresh.new_classes else {})
