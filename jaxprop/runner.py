"""The composition root: one configuration becomes one run, or goes on with one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

import jaxprop
from jaxprop import data, optimizers, parallel, tasks, trees
from jaxprop import step as steps
from jaxprop.checkpoint import Checkpoints, stored_config
from jaxprop.config.build import build
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import dump
from jaxprop.config.root import Config
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE, ConfigError, DataError, RunFolderError, UsageError
from jaxprop.interrupt import EXIT_CODES, Interrupts
from jaxprop.lock import hold
from jaxprop.loop import Experiment, Loop
from jaxprop.precision import Scaling
from jaxprop.sinks import Sink, open_sinks
from jaxprop.types import Source, TrainState

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
    mesh, precision, scaling = _mesh(config), config.precision.policy, _scaling(config)
    params_key, run_key = jax.random.split(jax.random.key(config.run.seed))
    params, extras = jax.jit(task.model.init)(params_key, next(data.one_pass(sources["train"], 2)))
    optimizer = optimizers.build(config.optimizer, steps=total, params=params)
    train_step = steps.make_train_step(
        task.objective, optimizer.tx, precision, config.run.accumulate, config.run.steps_per_call, config.health.layers,
        ema_decay=config.run.ema_decay, schedule=optimizer.schedule, scaling=scaling, mesh=mesh,
    )  # fmt: skip
    state = steps.init_state(
        params, optimizer.tx, key=run_key, extras=extras, precision=precision,
        ema_decay=config.run.ema_decay, scaling=scaling, mesh=mesh,
    )  # fmt: skip
    evaluate = steps.make_eval_step(task.objective, precision, mesh=mesh)
    experiment = Experiment(config, train_step, evaluate, stream, sources.get("test"), task.derived, mesh, total)
    return Composed(experiment, state, task, optimizer, sources)


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
        raise DataError(
            f"data.batch_size: {config.data.batch_size} is more than the {train.length} training examples there are; "
            f"use at most {train.length}"
        )


# -- a run's folder -------------------------------------------------------------------------------


def train(
    config: Config, folder: str | os.PathLike[str], *, fresh: bool = False, quiet: bool = False
) -> Outcome:
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
        _refuse_another_run(config, folder, fresh)
        composed = compose(config)
        with _open_checkpoints(config, folder) as checkpoints:
            if fresh:
                checkpoints.clear()
            loop = Loop(composed.experiment, composed.state, checkpoints, interrupts)
            summary = _run(loop, composed, folder, quiet, started)
        # Written once the last save is known to be whole.
        _write_summary(folder, summary)
    return Outcome(summary, _exit_code(summary["status"], interrupts))


def _run(loop: Loop, composed: Composed, folder: Path, quiet: bool, started: float) -> dict[str, Any]:
    """Resumes, runs and sums up; a run that fails leaves a summary that says so."""
    resumed_from = loop.resume()
    _write(folder / "config.yaml", dump(composed.experiment.config, folder))
    with _opened_sinks(composed.experiment, folder, resumed_from, quiet) as sink:
        if resumed_from is not None:
            sink.note(_resume_note(resumed_from, composed.experiment.total_steps))
        try:
            status = loop.run(sink)
        except Exception as error:
            failed = _summary("failed", loop, composed, started)
            _write_summary(folder, {**failed, "error": f"{type(error).__name__}: {error}"})
            raise
    return _summary(status, loop, composed, started)


def _resume_note(step: int, total: int) -> str:
    if step == total:
        return f"step {step} of {total} is already done; raise run.steps or run.epochs for more, or use --fresh"
    return f"resumed from step {step}"


def _summary(status: str, loop: Loop, composed: Composed, started: float) -> dict[str, Any]:
    clock = loop.clock
    return {
        "status": status,
        "step": loop.step,
        "metrics": loop.metrics,
        "reference": dict(composed.task.reference),
        "parameters": trees.count(loop.state.params),
        "seconds": time.perf_counter() - started,
        "compile_seconds": clock.compile_seconds,
        "examples_per_second": clock.examples / clock.seconds if clock.seconds else None,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a run's numbers depend on."""
    known = {"python": platform.python_version(), "jaxprop": jaxprop.__version__}
    return known | {name: importlib.metadata.version(name) for name in VERSIONED}


def _refuse_another_run(config: Config, folder: Path, fresh: bool) -> None:
    checkpoints = folder / "checkpoints"
    if fresh or not checkpoints.is_dir() or not Checkpoints(checkpoints).steps():
        return
    changes = mathematical(build(stored_config(checkpoints)), config)
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise UsageError(
            f"{folder} holds a run with another configuration, and going on with this one would change what it "
            f"computes:{lines}\nuse --run DIR for a new run, --fresh to start this one over, or the old values"
        )


def _open_checkpoints(config: Config, folder: Path) -> Checkpoints:
    section = config.checkpoint
    return Checkpoints(folder / "checkpoints", keep=section.keep, best=section.best or "loss", mode=section.mode)


@contextlib.contextmanager
def _opened_sinks(experiment: Experiment, folder: Path, resumed_from: int | None, quiet: bool) -> Iterator[Sink]:
    sink = open_sinks(
        experiment.config.sinks, folder, total_steps=experiment.total_steps, start_step=resumed_from, quiet=quiet
    )
    try:
        yield sink
    finally:
        sink.close()


def _exit_code(status: str, interrupts: Interrupts) -> int:
    if status == "interrupted" and interrupts.received is not None:
        return EXIT_CODES[interrupts.received]
    return EXIT_DIVERGED if status == "diverged" else EXIT_DONE


def _write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()}
    _write(folder / "summary.json", json.dumps(finite, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    # Renamed into place, so that a reader, or a crash, never meets half a file.
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}); choose another folder with --run DIR") from error
