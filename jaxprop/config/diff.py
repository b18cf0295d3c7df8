"""Differences between two configurations, and whether they change what a run computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxprop.config.checks import known_steps
from jaxprop.config.custom import is_place
from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import target_of
from jaxprop.config.schema.data import NO_PATHS, PATHS
from jaxprop.config.schema.optimizer import schedules_of
from jaxprop.config.schema.schedules import Schedule
from jaxprop.config.tree import Path, dotted

# A run may be continued with these changed. Every other key is assumed to change what it computes.
HARMLESS: tuple[Path, ...] = (
    ("sinks",),
    ("checkpoint",),
    ("run", "log_every"),
    ("run", "eval_every"),
    ("run", "eval_batches"),
    ("run", "remat"),
    ("run", "average"),  # which of those that are kept
    ("run", "stop"),  # how far a run goes, and nothing of what its steps are
    ("run", "timeout"),
    ("data", "prefetch"),
    ("data", "eval_batch_size"),
    # What the training data are is decided by their fingerprint, not by where they lie.
    *(("data", key) for key in PATHS),
    # The batches are the same.
    *(("data", key) for key in ("engine", "workers", "cache_mib")),
    ("data", "weights"),  # of a mixture, which may change at any step
    # measurements and responses; the structure of the train state does not depend on them
    *(("health", key) for key in ("every", "rare_every", "budget", "taps", "watch", "on_alert", "tries", "max_skips")),
    ("health", "blackboxes"),
    # The same sums in another order: other bits, which a note tells of, and the same run.
    ("run", "vocabulary_chunks"),
    ("run", "scan_layers"),
    *(("parallel", key) for key in ("devices", "mesh", "rules", "offload_optimizer")),
    ("task", "metrics"),  # further figures of evaluations
    # What the teacher is is decided by the digest of its arrays, which is compared when they are there.
    *(("task", "teacher", key) for key in ("run", "digest")),
)
# What a process may have for itself: where its host keeps the data, how they are read, and what process 0 alone writes.
OWN: tuple[Path, ...] = (
    ("sinks",),
    ("run", "timeout"),
    *(("data", key) for key in (*PATHS, "prefetch", "engine", "workers", "cache_mib")),
)
LENGTH: tuple[Path, ...] = (("run", "steps"), ("run", "epochs"))


class Change(NamedTuple):
    """A value that differs; `...` stands for a key that is absent on one side."""

    path: Path
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {_text(self.old)} -> {_text(self.new)}"


def diff(old: Config, new: Config) -> list[Change]:
    """Returns every value that differs between two configurations.

    Args:
      old, new: resolved configurations.

    Returns:
      Changes in the order of the configuration's keys; `str(change)` is `dotted.path: old -> new`.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> sgd = {"optimizer": {"name": "sgd", "lr": 0.1}}
      >>> old, new = (build(sections | sgd | {"run": {"epochs": n}}) for n in (1, 2))
      >>> [str(change) for change in diff(old, new)]
      ['run.epochs: 1 -> 2']
    """
    return differences(to_builtins(old), to_builtins(new))


def differences(old: Any, new: Any) -> list[Change]:
    """Returns every value that differs between two trees of dicts and lists.

    Example:
      >>> [str(change) for change in differences({"a": 1, "b": [2]}, {"a": 1, "b": [3]})]
      ['b.0: 2 -> 3']
    """
    return list(_differences(old, new, ()))


def mathematical(old: Config, new: Config, steps: int | None = None) -> list[Change]:
    """Returns the changes that alter what a run computes, so that the run cannot be continued.

    Sinks, checkpoints, intervals of logging and evaluation, prefetching and the paths of files do not alter it. The
    length of the run does only where the schedule is as long as the run, so that all of its rates would change. Changed
    contents of a file with code are told elsewhere, by `jaxprop.code.digest`.

    Args:
      old: the configuration that the run was started with.
      new: the configuration to continue it with.
      steps: the length of the run with the old one, where it is known although it does not follow from that.

    Returns:
      A part of `diff(old, new)`; empty if the run can be continued.
    """
    same = _same_schedules(old, new, steps)
    harmless = HARMLESS + LENGTH + tuple(schedules_of(new.optimizer)) if same else HARMLESS
    found = diff(old, new)
    changes = [change for change in found if _is_another_tokenizer(change) or not _is_harmless(change, harmless)]
    return [change for change in changes if not _same_code(change)]


def between_processes(first: Any, other: Any) -> list[Change]:
    """Returns the values that two processes of one run may not have different.

    All but how they read their data and what process 0 alone does: an interval of evaluations decides when the
    processes compute together, as the learning rate decides what.

    Args:
      first: the configuration of process 0, as JSON values.
      other: that of another process.

    Returns:
      A part of `differences(first, other)`.

    Example:
      >>> [str(change) for change in between_processes({"run": {"steps": 1}}, {"run": {"steps": 2}, "sinks": {}})]
      ['run.steps: 1 -> 2']
    """
    found = [change for change in differences(first, other) if not _is_harmless(change, OWN)]
    return [change for change in found if change.path[-1] == "class_sha256" or not _same_code(change)]


def _same_code(change: Change) -> bool:
    """Whether a change is only of where a file with code of the user's own lies, or of its contents, which are told."""
    if not is_place(change.path[:-1]):
        return False
    if change.path[-1] == "class_sha256":
        return True
    written = [target_of(value) for value in (change.old, change.new) if isinstance(value, str)]
    shown = {target and target.shown for target in written}
    return change.path[-1] == "class" and len(written) == 2 and len(shown) == 1


def _is_another_tokenizer(change: Change) -> bool:
    """Whether it is more than the path of a tokenizer's file, whose contents the fingerprint of the data knows."""
    paths = all(isinstance(value, str) and value not in NO_PATHS for value in (change.old, change.new))
    return change.path[:2] == ("data", "tokenizer") and not paths


def _same_schedules(old: Config, new: Config, steps: int | None) -> bool:
    """Whether the rates of each step are the same, whatever the lengths of the runs."""
    if old.run.swa or new.run.swa:
        return False  # the mean is over the last part of the run
    first, second = _with_lengths(old, steps or known_steps(old)), _with_lengths(new, known_steps(new))
    return first == second and all(schedule.length_key is None for schedule in first.values())


def _with_lengths(config: Config, steps: int | None) -> dict[Path, Schedule]:
    """The schedules with their lengths written out, where these are the length of the run and known."""
    lengths = {path: (schedule, schedule.length_key) for path, schedule in schedules_of(config.optimizer).items()}
    return {
        path: schedule if key is None or steps is None else schedule.model_copy(update={key: steps})
        for path, (schedule, key) in lengths.items()
    }


def _is_harmless(change: Change, harmless: tuple[Path, ...]) -> bool:
    path = change.path
    if path[:2] == ("data", "sources"):
        path = ("data", *path[3:])  # a source of a mixture has the keys of any other
    if path == ("data", "validation") and any(isinstance(value, float) for value in (change.old, change.new)):
        return False  # a number is a part of the training data, a path another file
    return any(path[: len(p)] == p for p in harmless)


def _differences(old: Any, new: Any, path: Path) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key, ...), new.get(key, ...), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, (*path, i))
    elif type(old) is not type(new) or old != new:
        yield Change(path, old, new)


def _text(value: Any) -> str:
    return "(not set)" if value is ... else json.dumps(value)
