"""Data prepared as those of an earlier run: by its vocabulary, classes and statistics, with more classes if need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.splits import hold_out
from jaxprop.errors import ConfigError, DataError
from jaxprop.types import Source
from jaxprop.untrusted.files import read_json

STORED = "prepared.json"  # of a run's folder
_SUFFIXES = ("", "_inputs", "_labels", "_targets", "_images")
_LISTED = 12  # classes that a message names
Open = Callable[[Any, str, Mapping[str, Any] | None], dict[str, Source]]


class Alike(NamedTuple):
    """What prepares data as those of a run.

    Args:
      info: sizes and names of the run's training data.
      prepared: what one source of the run has learned, or any that is prepared alike.
    """

    info: Mapping[str, Any]
    prepared: Mapping[str, Any]


def read_alike(folder: str) -> Alike:
    """Reads what a run has stored of its training data.

    Args:
      folder: the run's folder.

    Raises:
      ConfigError: it has stored nothing that can be read.
    """
    path = Path(folder).expanduser() / STORED
    try:
        held = read_json(path)
        return alike_of(held["info"], held["prepared"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"data.prepared_by: {path} cannot be read ({type(error).__name__}); name the folder of a run that "
            "'jaxprop train' has begun"
        ) from error


def alike_of(info: Mapping[str, Any], prepared: Mapping[str, Any]) -> Alike:
    """Returns what prepares data as those of a run, from what it knows of its own.

    Args:
      info, prepared: of the run's training source, which may be a mixture.
    """
    first = dict(prepared["sources"][0]) if "sources" in prepared else dict(prepared)
    if "left_out" in first:
        first["left_out"] = []  # records of that run's own files
    return Alike(info, first)


def class_names(info: Mapping[str, Any], task: str) -> list[str] | None:
    """Returns the names of what a task tells apart, in the order of their numbers; None where it tells nothing apart.

    Args:
      info: of a source.
      task: its name; the classes of transcripts are their characters.

    Example:
      >>> class_names({"classes": 2}, "classify"), class_names({"targets": 1}, "regress")
      (['0', '1'], None)
    """
    if task == "transcribe":
        known = info.get("characters")
        return None if known is None else [str(name) for name in known]
    if task not in ("classify", "multilabel", "detect"):
        return None
    named = info.get("class_names") or [str(i) for i in range(info.get("classes", 0))]
    return [str(name) for name in named]


def with_classes(alike: Alike, names: Sequence[str], task: str) -> Alike:
    """Returns the same with classes added after those that are there, whose numbers stay.

    Args:
      alike: of a run.
      names: of the new classes.
      task: the task's name.

    Example:
      >>> with_classes(Alike({"classes": 2}, {"classes": 2}), ["2"], "classify")
      Alike(info={'classes': 3}, prepared={'classes': 3})
    """
    if not names:
        return alike
    before = class_names(alike.info, task)
    if before is None:
        raise ConfigError(f"data.new_classes: the task {task} has no classes; remove this")
    both = next((name for name in names if name in before), None)
    if both is not None:
        raise ConfigError(f"data.new_classes: {both!r} is a class of that run already; remove it")
    return Alike(_extended(alike.info, names), _extended(alike.prepared, names))


def _extended(held: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    out = dict(held)
    for key in ("class_names", "characters", "classes"):
        value = out.get(key)
        if isinstance(value, int):
            out[key] = value + len(names)
        elif value:
            out[key] = [*value, *names]
    if out.get("characters") and "vocabulary" in out:
        out["vocabulary"] += len(names)
    return out


def open_alike(open_one: Open, section: Any, task: str, alike: Alike) -> dict[str, Source]:
    """Opens data as those of a run are prepared, their training split among them.

    Sources that are made rather than read have classes of their own, which get the numbers of the run's.

    Args:
      open_one: opens the data of one section.
      section: of the data.
      task: the task's name.
      alike: what prepares them.

    Raises:
      DataError: they do not fit the run, or have a class that it does not know.
    """
    opened = open_one(section, task, alike.prepared)
    if "train" not in opened:
        opened |= _training(open_one, section, task, alike)
    return {
        split: conformed(opened[split], alike.info, task)
        for split in ("train", "validation", "test")
        if split in opened
    }


def _training(open_one: Open, section: Any, task: str, alike: Alike) -> dict[str, Source]:
    """The training split, which a reader leaves out of what a run has prepared; it is opened as another test split."""
    changes: dict[str, Any] = {"validation": None}
    for suffix in _SUFFIXES:
        if f"test{suffix}" in type(section).model_fields:
            changes[f"test{suffix}"] = getattr(section, f"train{suffix}", None)
    try:
        train = open_one(section.model_copy(update=changes), task, alike.prepared)["test"]
    except DataError as error:
        raise DataError(str(error).replace("data.test", "data.train")) from error
    if not isinstance(section.validation, float):
        return {"train": train}
    stays, held = hold_out(train, section.validation, section.split_seed)
    return {"train": stays, "validation": held}


def conformed(source: Source, info: Mapping[str, Any], task: str) -> Source:
    """Returns a source whose classes have the numbers that they have in a run.

    Args:
      source: one split.
      info: of the run's training data.
      task: the task's name.

    Raises:
      DataError: it has a class that the run does not know.

    Example:
      >>> source = Source(1, lambda i: {"labels": np.array([1])}, {"classes": 2, "class_names": ["dog", "cat"]}, "f00d")
      >>> made = conformed(source, {"classes": 3, "class_names": ["cat", "dog", "owl"]}, "classify")
      >>> made.take(np.zeros(1))["labels"]
      array([0], dtype=int32)
    """
    known, own = class_names(info, task), class_names(source.info, task)
    if known is None or own is None:
        return source
    unknown = [name for name in own if name not in known]
    if unknown:
        raise DataError(f"the data have {listed(unknown)}, which the run does not know ({listed(known)})")
    told: dict[str, Any] = {
        key: info[key] for key in ("classes", "class_names", "characters", "vocabulary") if key in info
    }
    kept: dict[str, Any] = {
        key: told[key] for key in ("class_names", "characters") if key in source.prepared and key in told
    }
    source = source._replace(info={**source.info, **told}, prepared={**source.prepared, **kept})
    if own == known[: len(own)]:
        return source
    place = [known.index(name) for name in own]
    if task == "transcribe":
        place = [0, *(number + 1 for number in place)]  # 0 is the blank
    changed = _renumbered(np.array(place, np.int32), len(known), several=task == "multilabel")
    labels = source.labels
    return source._replace(
        take=lambda indices: {**(batch := source.take(indices)), "labels": changed(batch["labels"])},
        labels=None if labels is None else lambda: changed(labels()),
        fingerprint=fingerprint("classes", source.fingerprint, repr(place)),
    )


def _renumbered(place: np.ndarray, classes: int, *, several: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Labels by their new numbers; or, of several classes an example, columns at their new places."""
    if not several:
        return lambda labels: place[labels]

    def moved(labels: np.ndarray) -> np.ndarray:
        out = np.zeros((len(labels), classes), labels.dtype)
        out[:, place] = labels
        return out

    return moved


def listed(names: Sequence[str]) -> str:
    """Returns names for a sentence, the first of many.

    Example:
      >>> listed(["cat", "dog"])
      "'cat', 'dog'"
    """
    return ", ".join(map(repr, names[:_LISTED])) + (f" and {len(names) - _LISTED} more" * (len(names) > _LISTED))
