"""The runs of a sweep: each setting with each seed, its configuration and its folder. Loads no jax."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxprop.config.load import load
from jaxprop.config.schema.config import Config
from jaxprop.errors import ConfigError, UsageError
from jaxprop.run.swept import label, written
from jaxprop.tools.sweep.grid import Axis, Span, settings

MOST_RUNS = 10_000
LONGEST = 100  # characters of a folder's name


class Trial(NamedTuple):
    """One run of a sweep.

    Args:
      setting: key -> value, of the keys that are varied.
      seed: `run.seed`.
      config: of the run.
      folder: its name in the sweep's folder.
    """

    setting: Mapping[str, Any]
    seed: int
    config: Config
    folder: str

    @property
    def label(self) -> str:
        """What tells it apart from the others."""
        return label(self.setting, self.seed)


class Plan(NamedTuple):
    """What a sweep does.

    Args:
      config: as it was named.
      name: of the configuration.
      axes: what is varied.
      fixed: overrides that all runs have.
      seeds: of each setting.
      trials: the runs.
      base: the configuration with the fixed overrides alone, or with the first values where those have to be there.
    """

    config: str
    name: str
    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    base: Config


def plan(
    config: str, axes: Sequence[Axis], fixed: Sequence[str] = (), seeds: int | None = None, code: Sequence[str] = ()
) -> Plan:
    """Works out the runs of a sweep, and checks the configuration of each.

    Args:
      config: a YAML file, the name of a packaged configuration, or a run.
      axes: what is varied.
      fixed: overrides that all runs have.
      seeds: how many seeds each setting has, from that of the configuration on; default: 1.
      code: files of the user's own that may be run.

    Raises:
      UsageError: nothing is varied, or too much.
      ConfigError: a configuration is wrong.

    Example:
      >>> made = plan("digits_mlp", [Axis("optimizer.lr", (0.1, 0.01))], ["run.epochs=8"], seeds=2)
      >>> [trial.folder for trial in made.trials]
      ['lr=0.1,seed=0', 'lr=0.1,seed=1', 'lr=0.01,seed=0', 'lr=0.01,seed=1']
    """
    if not axes and seeds is None:
        raise UsageError(
            "nothing is varied; give a key two or more values, as in 'optimizer.lr=log(1e-4, 1e-1, 8)' or "
            "'optimizer.weight_decay=[0, 0.01]', or repeat one setting with --seeds N"
        )
    if any(axis.key == "run.seed" for axis in axes):
        raise UsageError("run.seed is varied by --seeds N, which tells the spread over seeds from the settings")
    count = 1 if seeds is None else seeds
    total = count
    for axis in axes:
        total *= len(axis.values)
    if total > MOST_RUNS:
        raise UsageError(f"{total:,} runs are more than {MOST_RUNS:,}; vary fewer keys or values, or take fewer seeds")
    made = _without_runs(config, axes, fixed, count, code)
    return made._replace(trials=_apart([trial for one in settings(axes) for trial in trials_of(made, one, code)]))


def _without_runs(config: str, axes: Sequence[Axis], fixed: Sequence[str], seeds: int, code: Sequence[str]) -> Plan:
    try:
        first = load(config, fixed, code)
    except ConfigError:  # without what is varied it may lack a key that has to be there
        first = load(config, [*fixed, *overrides({axis.key: axis.values[0] for axis in axes})], code)
    numbers = tuple(range(first.config.run.seed, first.config.run.seed + seeds))
    return Plan(config, first.name, tuple(axes), tuple(fixed), numbers, (), first.config)


def drawn(
    config: str, spans: Sequence[Span], axes: Sequence[Axis], fixed: Sequence[str] = (), seeds: int | None = None,
    code: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """Returns what a search has in common, without runs; both ends of each range and each value are checked.

    Args:
      config, fixed, seeds, code: as of `plan`.
      spans: ranges.
      axes: lists.

    Raises:
      UsageError: nothing is varied.
      ConfigError: a configuration is wrong.

    Example:
      >>> [axis.key for axis in drawn("digits_mlp", [Span("optimizer.lr", 1e-4, 1e-1, "log")], []).axes]
      ['optimizer.lr']
    """
    if not spans and not axes:
        raise UsageError("a search needs a range to draw from, as in 'optimizer.lr=log(1e-4, 1e-1)', or a list")
    corners = [Axis(span.key, (span.drawn(span.low), span.drawn(span.high))) for span in spans]
    for axis in (*corners, *axes):  # each by itself: with all of them together, there may be too many
        others = [one for one in (*corners, *axes) if one is not axis]
        plan(config, [axis], [*fixed, *overrides({one.key: one.values[0] for one in others})], None, code)
    return _without_runs(config, (*corners, *axes), fixed, seeds or 1, code)


def trials_of(plan: Plan, setting: Mapping[str, Any], code: Sequence[str] = ()) -> list[Trial]:
    """Returns the runs of one setting, one for each seed.

    Args:
      plan: what they belong to.
      setting: key -> value.
      code: files of the user's own that may be run.

    Raises:
      ConfigError: the configuration is wrong.
    """
    words = [*plan.fixed, *overrides(setting)]
    return [
        Trial(setting, seed, load(plan.config, [*words, f"run.seed={seed}"], code).config, _folder(setting, seed))
        for seed in plan.seeds
    ]


def overrides(setting: Mapping[str, Any]) -> list[str]:
    """Returns the overrides of a setting, as a command line has them.

    Example:
      >>> overrides({"optimizer.lr": 0.001, "model.hidden": [64]})
      ['optimizer.lr=0.001', 'model.hidden=[64]']
    """
    return [f"{key}={written(value)}" for key, value in setting.items()]


def _folder(setting: Mapping[str, Any], seed: int) -> str:
    name = re.sub(r"[^\w.,=+-]+", "_", label(setting, seed).replace(", ", ","))
    return name[:LONGEST]


def _apart(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Gives a number to what would lie in one folder."""
    seen: dict[str, int] = {}
    made = []
    for trial in trials:
        count = seen[trial.folder] = seen.get(trial.folder, 0) + 1
        made.append(trial if count == 1 else trial._replace(folder=f"{trial.folder},{count}"))
    return tuple(made)


def check_like(plan: Plan) -> None:
    """Refuses a sweep over a key that changes what is compared.

    Raises:
      ConfigError: tasks differ.
    """
    names = {plan.base.task.name, *(trial.config.task.name for trial in plan.trials)}
    if len(names) > 1:
        raise ConfigError(
            f"runs of the tasks {', '.join(sorted(names))} cannot be ranked together; sweep each by itself"
        )
