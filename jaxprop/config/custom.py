"""Code of the user's own in a configuration: where it is named, which file is meant, and whether it may be run.

Code runs only where the user has named it: in a configuration that they wrote, or with `--code`. What a run has stored,
in its folder, its checkpoints and its black boxes, may be anyone's, and names code without permission to run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any, NamedTuple

from pydantic import BaseModel

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom, Target
from jaxprop.config.tree import Path, Tree, dotted
from jaxprop.errors import ConfigError, did_you_mean

PLACES: tuple[Path, ...] = (("model",), ("data",), ("optimizer",), ("task", "loss"), ("task", "teacher"))
METRICS: Path = ("task", "metrics")
GROUPS: Path = ("optimizer", "groups")
# What lies beside the config.yaml of a run or of a black box.
MARKS = (
    "metrics.jsonl", "layers.jsonl", "alerts.jsonl", "summary.json", "prepared.json", "panels.json", "code.json",
    "lr_find.json", "checkpoints", "blackbox", "box.json",
)  # fmt: skip


def is_place(path: Path) -> bool:
    """Whether a section at a path may be code of the user's own.

    Example:
      >>> is_place(("model",)), is_place(("task", "metrics", "f1")), is_place(("run",))
      (True, True, False)
      >>> is_place(("optimizer", "groups", 0, "optimizer"))
      True
    """
    of_group = len(path) == 4 and path[:2] == GROUPS and path[3] == "optimizer"
    return path in PLACES or (len(path) == 3 and path[:2] == METRICS) or of_group


def custom_sections(config: Config) -> dict[Path, Custom]:
    """Returns the sections with code of the user's own, by their paths."""
    found: dict[Path, Any] = {
        ("model",): config.model,
        ("data",): config.data,
        ("optimizer",): config.optimizer,
        **{(*GROUPS, i, "optimizer"): group.optimizer for i, group in enumerate(config.optimizer.groups)},
        ("task", "loss"): config.task.loss,
        ("task", "teacher"): config.task.teacher,
        **{(*METRICS, name): section for name, section in (config.task.metrics or {}).items()},
    }
    return {path: section for path, section in found.items() if isinstance(section, Custom)}


def replace_sections(config: Config, sections: Mapping[Path, Custom]) -> Config:
    """Returns a configuration with other sections at some paths."""
    for path, section in sections.items():
        config = _with(config, path, section)
    return config


def _with(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, tuple):
        return tuple(_with(item, path[1:], new) if i == path[0] else item for i, item in enumerate(value))
    key = str(path[0])
    if isinstance(value, BaseModel):
        return value.model_copy(update={key: _with(getattr(value, key), path[1:], new)})
    return {**value, key: _with(value[key], path[1:], new)}


class Named(NamedTuple):
    """Code as the user has given it to `--code`: a file, or a module."""

    written: str

    @property
    def is_file(self) -> bool:
        """Whether it is a path of a file."""
        return self.written.endswith(".py")

    @property
    def source(self) -> str:
        """The file without its folder, or the module."""
        return File(self.written).name if self.is_file else self.written


def admit(config: Config, tree: Tree, code: Sequence[str] = (), *, stored: bool = False) -> Config:
    """Returns a configuration whose code is told which file is meant and whether it may be run.

    A file is relative to the config file that names it, and to the working directory where an override names it. It may
    be run unless a run has stored the configuration; then the user has to repeat it.

    Args:
      config: the configuration.
      tree: what it was made of, with the origin of every key.
      code: files and modules that the user has repeated with `--code`; a file takes the place of the one of the same
        name that is stored, whose folder may be anyone's.
      stored: whether the configuration comes from a run's checkpoint or black box.

    Example:
      >>> from jaxprop.config.build import build_tree
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"class": "net.py:Net"}}
      >>> tree = Tree(sections | {"optimizer": {"name": "sgd", "lr": 0.1}, "run": {"steps": 1}}, {})
      >>> [admit(build_tree(tree), tree, code, stored=True).model.permitted for code in ((), ["./net.py"])]
      [False, True]
    """
    given = [Named(word) for word in code]
    changed = {}
    for path, section in custom_sections(config).items():
        target, origin = section.target, tree.origin((*path, "class"))
        overridden = origin.startswith("override ")
        file = File() if overridden or not origin else File(origin.rpartition(":")[0])
        of_run = stored or section.class_sha256 is not None or is_of_run(file)
        repeated = next((one for one in given if one.source == target.source and one.is_file == target.is_file), None)
        if target.is_file:
            where = File(repeated.written) if repeated else file.parent / File(target.where).expanduser()
            target = Target(str(where.expanduser().absolute()), target.name)
        changed[path] = section.admitted(target, overridden or not of_run or repeated is not None, tree.origins)
    return replace_sections(config, changed)


def check_repeated(config: Config, code: Sequence[str], name: str) -> None:
    """Raises ConfigError where `--code` repeats what a configuration does not name.

    Args:
      config: the configuration.
      code: what was repeated.
      name: of the configuration, for the message.
    """
    known = sorted({section.target.source for section in custom_sections(config).values()})
    for one in map(Named, code):
        if one.source not in known:
            names = f"it names {', '.join(known)}" if known else "it names no code"
            raise ConfigError(
                f"--code {one.written}: {name} does not name it{did_you_mean(one.source, known)} ({names})"
            )


def refusal(path: Path, section: Custom) -> str:
    """Returns why the code of a section is not run, and how to run it all the same."""
    origin = Tree({}, dict(section.origins)).origin((*path, "class"))
    where = f"{origin}: " if origin else ""
    source = section.target.source
    return (
        f"{where}{dotted(path)}.class: {section.name} comes from the folder of a run, and code that a run names may be "
        f"anyone's; if you trust yours, repeat it: --code {source}"
    )


def is_of_run(file: File) -> bool:
    """Whether a config file is one that a run has stored, in its folder or in a black box.

    Example:
      >>> is_of_run(File("nowhere/config.yaml"))
      False
    """
    return file.name == "config.yaml" and any((file.parent / mark).exists() for mark in MARKS)
