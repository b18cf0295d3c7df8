"""Runs that differ in numbers and seeds alone share what is compiled: each is a lane of one program."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import data, tasks
from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Path
from jaxprop.errors import JaxpropError
from jaxprop.models.dropout import keeping
from jaxprop.parallel.hosts import process_count
from jaxprop.parallel.mesh import DATA_AXIS
from jaxprop.run import own_code
from jaxprop.run.clock import timed
from jaxprop.run.compose import Experiment, compose, evaluate_of, open_stream, place
from jaxprop.run.steps import Made, Shapes, step_of
from jaxprop.run.vocabulary import with_chunks
from jaxprop.train.lanes import Lane, Shared
from jaxprop.train.step import Recipe
from jaxprop.types import Batch, Objective, Source

SEED: Path = ("run", "seed")
DROPOUT: Path = ("model", "dropout")
DEVICES: Path = ("parallel", "devices")
CALLS = 5  # that are timed at least


def differing(configs: Sequence[Config]) -> list[Path]:
    """Returns the paths of the values in which configurations differ.

    Args:
      configs: one or more.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> made = [build(sections | {"optimizer": {"name": "sgd", "lr": lr}, "run": {"steps": 1}}) for lr in (0.1, 0.2)]
      >>> differing(made)
      [('optimizer', 'lr')]
    """
    flat = [dict(_leaves(to_builtins(config))) for config in configs]
    paths = dict.fromkeys(path for one in flat for path in one)
    missing = object()
    return [path for path in paths if any(one.get(path, missing) != flat[0].get(path, missing) for one in flat)]


def value_at(config: Config | Mapping[str, Any], path: Path) -> Any:
    """Returns the value at a path of a configuration, or of what it is as plain values; None where there is none."""
    found: Any = config if isinstance(config, Mapping) else to_builtins(config)
    for name in path:
        try:
            found = found[name]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def with_value(section: Any, path: Path, value: Any) -> Any:
    """Returns a section with another value at a path, which is not checked.

    Args:
      section: of a configuration, or the whole, or a tuple in it.
      path: names of keys, and places in tuples.
      value: such as a scalar array.
    """
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(name, int):
        return (*section[:name], with_value(section[name], rest, value), *section[name + 1 :])
    return section.model_copy(update={name: with_value(getattr(section, name), rest, value)})


class Pace(NamedTuple):
    """What a program costs.

    Args:
      step: seconds of a step of one run, the least of several.
      compiling: seconds before the first.
    """

    step: float
    compiling: float


class Program:
    """What the runs of a sweep share that differ in numbers and seeds: data, model, and compiled steps.

    Args:
      config: of one of them.
      paths: of the numbers.
      sources: the data's splits, where they are open already.
    """

    def __init__(self, config: Config, paths: Sequence[Path], sources: Mapping[str, Source] | None = None):
        self.config, self.paths = config, tuple(path for path in paths if path != SEED)
        self.experiment = compose(config, sources)
        self.shared = Shared(self._recipe_of)
        state = jax.eval_shape(lambda: self.experiment.init(0))
        self._shapes = Shapes(state.params, state.extras, self.experiment.growths)

    @functools.cached_property
    def alone(self) -> Program | None:
        """The program of the same runs on one device each; None where a run has one anyway, or needs all of its own."""
        parallel, mesh = self.config.parallel, self.experiment.mesh
        copies = mesh is not None and mesh.axis_names == (DATA_AXIS,) and process_count() == 1
        if not copies or parallel.deterministic is not None or parallel.offload_optimizer:
            return None
        return Program(with_value(self.config, DEVICES, 1), self.paths, self.experiment.sources)

    def _made(self, config: Config) -> Made:
        one = self.experiment
        return step_of(config, self._task(config), self._shapes, total_steps=one.total_steps, mesh=one.mesh)

    def _task(self, config: Config) -> tasks.Task:
        """The task of a run: another one where the loss is among what varies."""
        one = self.experiment
        if not any(path[0] == "task" for path in self.paths):
            return one.task
        return tasks.make_task(with_chunks(config, one.sources["train"], one.mesh), one.sources, one.teacher)

    def _recipe_of(self, values: Sequence[jax.Array]) -> Recipe:
        config, share = self.config, None
        for path, value in zip(self.paths, values, strict=True):
            if path == DROPOUT:
                share = value
            else:
                config = with_value(config, path, value)
        recipe = self._made(config).step.recipe
        return recipe if share is None else recipe._replace(objective=_keeping(recipe.objective, share))

    def member(self, config: Config, sources: Mapping[str, Source] | None = None) -> Experiment:
        """Returns the experiment of one of the runs.

        Args:
          config: that differs from the program's at its paths and in its seed alone; also in the steps of a call.
          sources: those of the program, which every run has.
        """
        del sources
        return self.with_lane(config, Lane(self.shared, self.values(config)))

    def values(self, config: Config) -> tuple[float, ...]:
        """Returns the numbers of one of the runs, in the order of the paths."""
        found = {path: float(value_at(config, path)) for path in self.paths}
        return tuple(1 - value if path == DROPOUT else value for path, value in found.items())

    def with_lane(self, config: Config, lane: Any) -> Experiment:
        """Returns the experiment of one of the runs, whose step has the programs of a lane.

        Args:
          config: of the run.
          lane: with a method `programs`, as `jaxprop.train.lanes.Lane`.
        """
        config = own_code.checked(config)
        made, task, evaluate = self._made(config), self._task(config), self.experiment.evaluate
        if task is not self.experiment.task:
            evaluate = evaluate_of(config, task.objective, self.experiment.mesh)
        return self.experiment._replace(
            config=config, task=task, step=made.step.with_lane(lane), optimizer=made.optimizer, evaluate=evaluate,
            stream=open_stream(config, self.experiment.sources["train"], self.experiment.mesh),
        )  # fmt: skip

    def batch(self) -> Batch:
        """Returns a batch as one call of the step takes it."""
        batch = next(data.one_pass(data.as_kept(self.experiment.sources["train"]), self.config.data.batch_size))
        per_call = self.config.run.per_call
        return batch if per_call == 1 else jax.tree.map(lambda leaf: np.stack([leaf] * per_call), batch)

    @functools.cached_property
    def pace(self) -> Pace:
        """Seconds of a step of one run, and of compiling it."""
        first, *rest = self._seconds(CALLS + 1)
        return Pace(min(rest) / self.config.run.per_call, first - min(rest))

    def typical(self, seconds: float) -> float:
        """Returns the median of the seconds of a step, timed for about so long.

        Args:
          seconds: of the timing, beside the first call.
        """
        calls = max(CALLS, int(seconds / (self.pace.step * self.config.run.per_call)))
        return statistics.median(self._seconds(calls + 1)[1:]) / self.config.run.per_call

    def _seconds(self, calls: int) -> list[float]:
        """Seconds of each of so many calls of the step of a run, whose state nobody needs afterwards."""
        experiment = self.member(self.config)
        state, batch, took = experiment.init(0), place(experiment, self.batch())[0], []
        for _ in range(calls):
            (state, _), seconds = timed(experiment.step, state, batch, "rows")
            took.append(seconds)
        return took

    def problem(self, configs: Sequence[Config]) -> str | None:
        """Returns why these runs cannot share a program, or None where they can.

        Args:
          configs: of the runs.
        """
        state = jax.eval_shape(lambda: self.experiment.init(0))
        trained = self.experiment.step.trained(state.params)
        held = {jax.tree.structure(jax.eval_shape(self._made(one).optimizer.tx.init, trained)) for one in configs}
        if len(held) > 1:
            return "their optimizers hold different states"
        try:
            self.member(configs[0]).step.lower(state, self.batch(), "rows")
        except JaxpropError:
            raise
        except Exception as error:  # whatever a number that is not known yet has led to
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return None


def _keeping(objective: Objective, share: jax.Array) -> Objective:
    def mean_loss(*given: Any) -> Any:
        with keeping(share):
            return objective.mean_loss(*given)

    return objective._replace(mean_loss=mean_loss)


def _leaves(tree: Any, path: Path = ()) -> Any:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from _leaves(value, (*path, i))
    else:
        yield path, tree
