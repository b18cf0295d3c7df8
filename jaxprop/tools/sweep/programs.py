"""Which runs of a sweep share a program: those that differ in numbers that a compiled step takes as arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Path
from jaxprop.errors import JaxpropError, in_one_line
from jaxprop.run.lanes import DROPOUT, SEED, Program, differing, value_at, with_value
from jaxprop.tools.sweep.plan import Trial
from jaxprop.types import Source


class Group(NamedTuple):
    """Runs of one program.

    Args:
      program: None where it cannot be built.
      trials: the runs.
      problem: why it cannot be built, one sentence.
    """

    program: Program | None
    trials: list[Trial]
    problem: str = ""


def groups(trials: Sequence[Trial]) -> Iterator[Group]:
    """Yields the runs of a sweep by their programs, each of which is made when it is asked for.

    Args:
      trials: the runs.
    """
    opened: dict[str, Mapping[str, Source]] = {}
    for apart in grouped(trials, numbers_of(trials)):
        numbers, configs = numbers_of(apart), [trial.config for trial in apart]
        try:
            program = _program(configs[0], numbers, opened)
        except JaxpropError as error:
            yield Group(None, apart, in_one_line(error))
            continue
        if not numbers or program.problem(configs) is None:
            yield Group(program, apart)
            continue
        # Some of the numbers decide what is computed, and so cannot be arguments.
        fit = [path for path in numbers if _fits(path, configs)]
        for smaller in grouped(apart, fit):
            yield Group(_program(smaller[0].config, fit, opened), smaller)


class Programs:
    """Programs of runs that become known one after another, as in a search; each is made once.

    Args:
      keys: dotted, of what differs between the runs.
    """

    def __init__(self, keys: Sequence[str]):
        self._keys = [tuple(int(part) if part.isdigit() else part for part in key.split(".")) for key in keys]
        self._made: dict[str, Program | None] = {}  # None where a number cannot be an argument
        self._opened: dict[str, Mapping[str, Source]] = {}

    def groups(self, trials: Sequence[Trial]) -> Iterator[Group]:
        """Yields runs by their programs."""
        numbers = [path for path in self._keys if all(_is_number(path, trial.config) for trial in trials)]
        apart: dict[str, list[Trial]] = {}
        for trial in trials:
            tree: Any = trial.config
            for path in (*numbers, SEED):
                tree = with_value(tree, path, float(not _does_nothing(path, trial.config)) if path != SEED else 0)
            apart.setdefault(json.dumps(to_builtins(tree), default=str), []).append(trial)
        for what, some in apart.items():
            try:
                yield from self._groups(what, some, numbers)
            except JaxpropError as error:
                yield Group(None, some, in_one_line(error))

    def _groups(self, what: str, trials: list[Trial], numbers: list[Path]) -> Iterator[Group]:
        if what not in self._made:
            program = _program(trials[0].config, numbers, self._opened)
            fits = not numbers or program.problem([trial.config for trial in trials]) is None
            self._made[what] = program if fits else None
        known = self._made[what]
        if known is not None:
            yield Group(known, trials)
            return
        for trial in trials:
            yield Group(_program(trial.config, [], self._opened), [trial])


def _program(config: Config, numbers: Sequence[Path], opened: dict[str, Mapping[str, Source]]) -> Program:
    """A program, on data that an earlier one has opened where they are the same."""
    data = json.dumps([to_builtins(config)["data"], config.task.name], default=str)
    program = Program(config, numbers, opened.get(data))
    opened[data] = program.experiment.sources
    return program


def _fits(path: Path, configs: Sequence[Config]) -> bool:
    """Whether a number can be an argument of a program by itself."""
    some = configs[0]
    alone = [with_value(some, path, value_at(config, path)) for config in configs]
    return Program(some, [path]).problem(alone) is None


def numbers_of(trials: Sequence[Trial]) -> list[Path]:
    """Returns the paths in which configurations differ and that a compiled step may take as arguments.

    Args:
      trials: the runs.
    """
    configs = [trial.config for trial in trials]
    return [path for path in differing(configs) if all(_is_number(path, config) for config in configs)]


def _is_number(path: Path, config: Config) -> bool:
    """Whether a compiled step may take the value at a path as an argument."""
    allowed = path[0] == "optimizer" or path[:2] == ("task", "loss") or path == DROPOUT
    return allowed and isinstance(value_at(config, path), float)


def _does_nothing(path: Path, config: Config) -> bool:
    return bool(value_at(config, path) == (1 if path[-1] == "lr_scale" else 0))


def is_alike(one: Trial, other: Trial) -> bool:
    """Whether two runs differ in numbers and their seed alone, and so cost the same."""
    return len(grouped([one, other], numbers_of([one, other]))) == 1


def grouped(trials: Sequence[Trial], numbers: Sequence[Path]) -> list[list[Trial]]:
    """Returns the runs apart by all in which they differ beside some numbers and their seed.

    A number that does nothing in some runs stands apart, too: a decay of 0, for example, is none, and has no mask.

    Args:
      trials: the runs.
      numbers: paths of their configurations.
    """
    apart = [path for path in differing([trial.config for trial in trials]) if path not in numbers and path != SEED]
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        tree = to_builtins(trial.config)
        values = [value_at(tree, path) for path in apart], [_does_nothing(path, trial.config) for path in numbers]
        found.setdefault(json.dumps(values, default=str), []).append(trial)
    return list(found.values())
