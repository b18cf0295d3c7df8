"""Which runs of a sweep share a program: those that differ in numbers that a compiled step takes as arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Path
from jaxprop.errors import JaxpropError
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
    for apart in grouped(trials, _numbers(trials)):
        numbers, configs = _numbers(apart), [trial.config for trial in apart]
        try:
            program = _program(configs[0], numbers, opened)
        except JaxpropError as error:
            yield Group(None, apart, str(error).splitlines()[0])
            continue
        if not numbers or program.problem(configs) is None:
            yield Group(program, apart)
            continue
        # Some of the numbers decide what is computed, and so cannot be arguments.
        fit = [path for path in numbers if _fits(path, configs)]
        for smaller in grouped(apart, fit):
            yield Group(_program(smaller[0].config, fit, opened), smaller)


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


def _numbers(trials: Sequence[Trial]) -> list[Path]:
    configs = [trial.config for trial in trials]
    return [
        path
        for path in differing(configs)
        if (path[0] == "optimizer" or path[:2] == ("task", "loss") or path == DROPOUT)
        and all(isinstance(value_at(config, path), float) for config in configs)
    ]


def grouped(trials: Sequence[Trial], numbers: Sequence[Path]) -> list[list[Trial]]:
    """Returns the runs apart by all in which they differ beside some numbers and their seed.

    A number that is 0 in some runs stands apart, too: a decay of 0, for example, is none, and has no mask.

    Args:
      trials: the runs.
      numbers: paths of their configurations.
    """
    apart = [path for path in differing([trial.config for trial in trials]) if path not in numbers and path != SEED]
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        tree = to_builtins(trial.config)
        values = [value_at(tree, path) for path in apart], [value_at(tree, path) == 0 for path in numbers]
        found.setdefault(json.dumps(values, default=str), []).append(trial)
    return list(found.values())
