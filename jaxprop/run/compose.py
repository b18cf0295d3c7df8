"""The composition root: one configuration becomes everything a run needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop import data, tasks
from jaxprop.config.schema.config import Config
from jaxprop.core.measurements import Measurements
from jaxprop.core.precision import Scaling
from jaxprop.errors import ConfigError
from jaxprop.parallel.mesh import make_mesh
from jaxprop.parallel.placement import place_batch
from jaxprop.run.pace import settings
from jaxprop.train import optimizers
from jaxprop.train.compiled import make_train_step
from jaxprop.train.eval_step import EvalStep, make_eval_step
from jaxprop.train.state import init_state
from jaxprop.types import Batch, PyTree, Source, TrainState


class Composed(NamedTuple):
    """A configuration built: what the loop needs, and what only a report or a summary does.

    Args:
      experiment: ready to step.
      state: the state before the first step.
      task: data, model, loss and metrics bound together.
      optimizer: the update rule with its schedule.
      sources: the data's splits.
    """

    experiment: Experiment
    state: TrainState
    task: tasks.Task
    optimizer: optimizers.Optimizer
    sources: Mapping[str, Source]


def compose(config: Config) -> Composed:
    """Builds everything a configuration names.

    Args:
      config: the configuration.

    Returns:
      The experiment, its initial state and their parts.

    Raises:
      JaxpropError: the data, the model, the optimizer and the devices do not fit together.
    """
    sources = data.open_sources(config.data, config.task.name)
    task = tasks.make_task(config, sources)
    _check_batch_size(config, sources["train"])
    stream = open_stream(config, sources["train"])
    total = config.run.steps or (config.run.epochs or 0) * stream.batches_per_epoch
    mesh, precision, scaling, health = _mesh(config), config.precision.policy, _scaling(config), settings(config)
    params, extras, run_key = _initialized(config, task, sources["train"])
    optimizer = optimizers.make_optimizer(config.optimizer, steps=total, params=params)
    train_step = make_train_step(
        task.objective, optimizer.tx, precision, config.run.accumulate, config.run.steps_per_call, health,
        ema_decay=config.run.ema_decay, schedule=optimizer.schedule, clip=optimizer.clip, scaling=scaling, mesh=mesh,
    )  # fmt: skip
    state = _state(config, params, extras, run_key, optimizer, mesh)
    evaluate = make_eval_step(task.objective, precision, mesh=mesh)
    experiment = Experiment(config, train_step, evaluate, stream, sources.get("test"), task.derived, mesh, total)
    return Composed(experiment, state, task, optimizer, sources)


def start(config: Config, composed: Composed) -> TrainState:
    """Returns a state before the first step, of what is composed; with another `run.seed`, another one."""
    initialized = _initialized(config, composed.task, composed.sources["train"])
    return _state(config, *initialized, composed.optimizer, composed.experiment.mesh)


def _initialized(config: Config, task: tasks.Task, train: Source) -> tuple[PyTree, PyTree, jax.Array]:
    params_key, run_key = jax.random.split(jax.random.key(config.run.seed))
    params, extras = jax.jit(task.model.init)(params_key, next(data.one_pass(train, 2)))
    return params, extras, run_key


def _state(
    config: Config, params: PyTree, extras: PyTree, key: jax.Array, optimizer: optimizers.Optimizer, mesh: Mesh | None
) -> TrainState:
    return init_state(
        params, optimizer.tx, key=key, extras=extras, precision=config.precision.policy,
        ema_decay=config.run.ema_decay, scaling=_scaling(config), mesh=mesh, health=settings(config),
    )  # fmt: skip


def open_stream(config: Config, train: Source) -> data.Stream:
    """Returns the stream of training batches, at its start."""
    section = config.data
    return data.Stream(train, section.batch_size, config.run.seed, shuffle=section.shuffle, drop_last=section.drop_last)


def _mesh(config: Config) -> Mesh | None:
    mesh = make_mesh(config.parallel.devices)
    microbatch = config.data.batch_size // config.run.accumulate
    if microbatch % mesh.size:
        raise ConfigError(
            f"data.batch_size: a microbatch of {microbatch} cannot be divided over the {mesh.size} devices of this "
            f"machine; use a multiple of {mesh.size * config.run.accumulate}, or set parallel.devices"
        )
    return mesh if mesh.size > 1 else None


def _scaling(config: Config) -> Scaling:
    return Scaling(initial=config.precision.loss_scale, growth_interval=config.precision.growth_interval)


def _check_batch_size(config: Config, train: Source) -> None:
    if config.data.batch_size > train.length:
        raise ConfigError(
            f"data.batch_size: {config.data.batch_size} is more than the {train.length} training examples there are; "
            f"use at most {train.length}"
        )


class Step(Protocol):
    """The compiled train step; `jaxprop.train.compiled.TrainStep` is one."""

    def __call__(
        self, state: TrainState, batch: Batch, detail: str | None = None, /
    ) -> tuple[TrainState, Measurements]: ...

    def lower(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Any: ...


class Experiment(NamedTuple):
    """Everything a configuration stands for, built and ready to step.

    Args:
      config: the configuration.
      step: the compiled train step.
      evaluate: the compiled eval step, `(params, extras, batch) -> {name: total}`, and how its totals are finished.
      stream: training batches.
      test: the split to evaluate on, or None.
      derived: metrics of an evaluation -> further figures that follow from them.
      mesh: the devices, or None for a single one.
      total_steps: steps the run takes from start to end.
    """

    config: Config
    step: Step
    evaluate: EvalStep
    stream: data.Stream
    test: Source | None
    derived: Callable[[Mapping[str, float]], dict[str, float]]
    mesh: Mesh | None
    total_steps: int


class Stop(Protocol):
    """What tells the loop to save and leave; `jaxprop.run.interrupt.Interrupts` is one."""

    received: Any


def place(experiment: Experiment, batch: dict[str, np.ndarray]) -> tuple[Any, float]:
    """Puts a batch, or several stacked, where the step takes them.

    Args:
      experiment: with `mesh`, the devices.
      batch: arrays on the host.

    Returns:
      The batch on the devices, and its number of examples.
    """
    examples, mesh = float(batch["weight"].sum()), experiment.mesh
    # On one device jit takes NumPy as it is; a transfer of its own would only cost another dispatch on CPU.
    if mesh is None:
        return (batch if jax.default_backend() == "cpu" else jax.device_put(batch)), examples
    return place_batch(batch, mesh, experiment.config.run.steps_per_call), examples
