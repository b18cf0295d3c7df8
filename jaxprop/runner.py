"""The composition root: one configuration becomes one run, or goes on with one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxprop import data, ending, optimizers, parallel, resuming, tasks
from jaxprop import step as steps
from jaxprop.blackbox import Recorder
from jaxprop.checkpoint import Checkpoints
from jaxprop.config.dump import dump
from jaxprop.config.root import Config
from jaxprop.errors import EXIT_DONE, ConfigError
from jaxprop.eval_step import make_eval_step
from jaxprop.experiment import Experiment
from jaxprop.interrupt import Interrupts
from jaxprop.lock import hold
from jaxprop.loop import Loop
from jaxprop.pace import settings
from jaxprop.precision import Scaling
from jaxprop.runfolder import write_summary, write_text
from jaxprop.sinks import open_sinks
from jaxprop.state import init_state
from jaxprop.types import PyTree, Source, TrainState


class Outcome(NamedTuple):
    """How a run ended: the summary that `summary.json` holds, and the exit code."""

    summary: dict[str, Any]
    exit_code: int


# -- composition --------------------------------------------------------------------------------


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
    task = tasks.build(config, sources)
    _check_batch_size(config, sources["train"])
    stream = open_stream(config, sources["train"])
    total = config.run.steps or (config.run.epochs or 0) * stream.batches_per_epoch
    mesh, precision, scaling, health = _mesh(config), config.precision.policy, _scaling(config), settings(config)
    params, extras, run_key = _initialized(config, task, sources["train"])
    optimizer = optimizers.build(config.optimizer, steps=total, params=params)
    train_step = steps.make_train_step(
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
    mesh = parallel.make_mesh(config.parallel.devices)
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


# -- a run's folder -------------------------------------------------------------------------------


def train(config: Config, folder: str | os.PathLike[str], *, fresh: bool = False, quiet: bool = False) -> Outcome:
    """Trains a configuration in a folder, or goes on where the folder's newest checkpoint stands.

    Args:
      config: the configuration.
      folder: the run's folder; made if need be, held against other processes while the run lasts.
      fresh: start over, removing the folder's checkpoints and records.
      quiet: no console.

    Returns:
      The summary and the exit code: 0 done, 3 diverged, 75 or 130 interrupted after saving.

    Raises:
      UsageError: the folder holds a run whose mathematics another configuration would change.
      JaxpropError: the run cannot be built, or its folder not be written.
    """
    folder = Path(folder)
    started = time.perf_counter()
    with hold(folder), Interrupts() as interrupts:
        finished = None if fresh else resuming.finished(config, folder)
        composed = compose(config)
        if finished is not None and finished["step"] == composed.experiment.total_steps:
            print(resuming.resume_note(finished["step"], finished["step"]), file=sys.stderr)
            return Outcome(finished, EXIT_DONE)
        checkpoints = _open_checkpoints(config, folder)
        loop = Loop(composed.experiment, composed.state, checkpoints, interrupts, Recorder(folder, config))
        try:
            with checkpoints:
                status = _run(loop, composed, checkpoints, folder, fresh, quiet)
        except Exception as error:
            ending.sum_up_failure(error, loop, composed.task.reference, started, folder)
            raise
        # Written once the last save is known to be whole.
        summary = ending.summary(status, loop, composed.task.reference, started)
        write_summary(folder, summary)
    if status != "completed":
        print(ending.last_words(status, loop, config.checkpoint.enabled), file=sys.stderr)
    return Outcome(summary, ending.exit_code(status, interrupts.received))


def _run(loop: Loop, composed: Composed, checkpoints: Checkpoints, folder: Path, fresh: bool, quiet: bool) -> str:
    """Resumes or starts over, and runs; returns how the run ended."""
    if fresh:
        _trace(composed)
    resumed_from = None if fresh else loop.resume()
    if resumed_from is None and not fresh:
        resuming.refuse_unreadable(folder / "checkpoints")
    write_text(folder / "config.yaml", dump(composed.experiment.config, folder))
    section, total = composed.experiment.config.sinks, composed.experiment.total_steps
    sinks = open_sinks(
        section, folder, total_steps=total, start_step=resumed_from, alerts=loop.alert_lines, quiet=quiet
    )
    with contextlib.closing(sinks) as sink:
        if fresh:
            checkpoints.clear()
            shutil.rmtree(folder / "blackbox", ignore_errors=True)
        (folder / "summary.json").unlink(missing_ok=True)  # of an earlier end that this run goes beyond
        if resumed_from is not None:
            sink.note(resuming.resume_note(resumed_from, total))
        return loop.run(sink)


def _trace(composed: Composed) -> None:
    """Traces the train step, so that what cannot be trained is known before anything is removed for it."""
    config, sources = composed.experiment.config, composed.sources
    batch = next(data.one_pass(sources["train"], config.data.batch_size))
    if config.run.steps_per_call > 1:
        batch = {name: values[None] for name, values in batch.items()}
    composed.experiment.step.lower(composed.state, batch)


def _open_checkpoints(config: Config, folder: Path) -> Checkpoints:
    section = config.checkpoint
    return Checkpoints(folder / "checkpoints", keep=section.keep, best=section.best or "loss", mode=section.mode)
