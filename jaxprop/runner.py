"""The composition root: one configuration becomes one run, or goes on with one."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxprop import data, optimizers, parallel, tasks, trees
from jaxprop import step as steps
from jaxprop.checkpoint import Checkpoints, stored_config
from jaxprop.config.build import build
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import dump
from jaxprop.config.load import load
from jaxprop.config.root import Config
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE, CheckpointError, ConfigError, RunFolderError, UsageError
from jaxprop.interrupt import EXIT_CODES, Interrupts
from jaxprop.lock import hold
from jaxprop.loop import Experiment, Loop
from jaxprop.precision import Scaling
from jaxprop.runfolder import read_summary, versions, write_summary, write_text
from jaxprop.sinks import Sink, open_sinks
from jaxprop.sinks.jsonl import encode
from jaxprop.types import Source, TrainState


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
        finished = None if fresh else _finished(config, folder)
        composed = compose(config)
        if finished is not None and finished["step"] == composed.experiment.total_steps:
            print(_resume_note(finished["step"], finished["step"]), file=sys.stderr)
            return Outcome(finished, EXIT_DONE)
        checkpoints = _open_checkpoints(config, folder)
        loop = Loop(composed.experiment, composed.state, checkpoints, interrupts)
        try:
            with checkpoints:
                status = _run(loop, composed, checkpoints, folder, fresh, quiet)
        except Exception as error:
            _sum_up_failure(error, loop, composed, started, folder)
            raise
        # Written once the last save is known to be whole.
        summary = _summary(status, loop, composed, started)
        write_summary(folder, summary)
    if status != "completed":
        print(_ending(status, loop, config), file=sys.stderr)
    return Outcome(summary, _exit_code(status, interrupts))


def _run(loop: Loop, composed: Composed, checkpoints: Checkpoints, folder: Path, fresh: bool, quiet: bool) -> str:
    """Resumes or starts over, and runs; returns how the run ended."""
    if fresh:
        _trace(composed)
    resumed_from = None if fresh else loop.resume()
    if resumed_from is None and not fresh:
        _refuse_unreadable(folder / "checkpoints")
    write_text(folder / "config.yaml", dump(composed.experiment.config, folder))
    with _opened_sinks(composed.experiment, folder, resumed_from, quiet) as sink:
        if fresh:
            checkpoints.clear()
        (folder / "summary.json").unlink(missing_ok=True)  # of an earlier end that this run goes beyond
        if resumed_from is not None:
            sink.note(_resume_note(resumed_from, composed.experiment.total_steps))
        return loop.run(sink)


def _refuse_unreadable(checkpoints: Path) -> None:
    """Raises CheckpointError where checkpoints lie that cannot be read: starting over would take their records away."""
    lost = sorted(path.parent.name for path in checkpoints.glob("*/state") if path.parent.name.isdigit())
    if lost:
        raise CheckpointError(
            f"the checkpoints of step {', '.join(lost)} in {checkpoints} cannot be read; restore their run/run.json, "
            "use --run DIR for a new run, or --fresh to start this one over"
        )


def _trace(composed: Composed) -> None:
    """Traces the train step, so that what cannot be trained is known before anything is removed for it."""
    config, sources = composed.experiment.config, composed.sources
    batch = next(data.one_pass(sources["train"], config.data.batch_size))
    if config.run.steps_per_call > 1:
        batch = {name: values[None] for name, values in batch.items()}
    composed.experiment.step.lower(composed.state, batch)


def _resume_note(step: int, total: int) -> str:
    if step == total:
        return (
            f"all {total} steps are done already; raise run.steps or run.epochs for more, which a constant schedule "
            "allows, or start over with --fresh"
        )
    return f"resumed from step {step}"


def _ending(status: str, loop: Loop, config: Config) -> str:
    """What to tell a person whose run ended early, and what to do next."""
    if status == "diverged":
        return f"diverged: {_reason(loop, config)}"
    if not config.checkpoint.enabled:
        return f"interrupted after step {loop.step} and not saved, since checkpoint.enabled is false"
    return f"interrupted after step {loop.step}; the same command goes on from there"


def _reason(loop: Loop, config: Config) -> str:
    skips = config.health.max_skips
    return (
        f"loss or gradients were not finite for {skips} steps in a row, up to step {loop.step}. Such steps change "
        "nothing, so what was saved before them is intact; lower optimizer.lr, or set optimizer.grad_clip={norm: 1.0}, "
        "and start over with --fresh"
    )


def _summary(status: str, loop: Loop, composed: Composed, started: float) -> dict[str, Any]:
    clock = loop.clock
    diverged = {"error": _reason(loop, composed.experiment.config)} if status == "diverged" else {}
    summary = {
        "status": status,
        **diverged,
        "step": loop.step,
        "metrics": loop.metrics,
        "reference": dict(composed.task.reference),
        "parameters": trees.count(loop.state.params),
        "seconds": time.perf_counter() - started,
        "compile_seconds": clock.compile_seconds,
        "examples_per_second": clock.examples / clock.seconds if clock.seconds else None,
        "versions": versions(),
    }
    return json.loads(encode(summary))  # what is not finite is null, in the file and out of `--json`


def _sum_up_failure(error: Exception, loop: Loop, composed: Composed, started: float, folder: Path) -> None:
    # Removed when training begins: a run that got no further leaves what an earlier one wrote.
    if (folder / "summary.json").exists():
        return
    failed = _summary("failed", loop, composed, started)
    with contextlib.suppress(RunFolderError):  # of a full disk the first error says enough
        write_summary(folder, {**failed, "error": f"{type(error).__name__}: {error}"})


def _finished(config: Config, folder: Path) -> dict[str, Any] | None:
    """Returns the summary of the completed run in a folder, if there is one.

    Raises:
      UsageError: the folder holds a run that cannot be continued with this configuration.
    """
    summary = read_summary(folder)
    completed = summary is not None and summary.get("status") == "completed"
    checkpoints = folder / "checkpoints"
    saved = checkpoints.is_dir() and bool(Checkpoints(checkpoints).steps())
    if saved:
        _refuse_another(build(stored_config(checkpoints)), config, folder)
    elif completed and (folder / "config.yaml").is_file():
        before = load(folder / "config.yaml").config
        _refuse_another(before, config, folder)
        if (before.run.steps, before.run.epochs) != (config.run.steps, config.run.epochs):
            raise UsageError(
                f"{folder} holds a completed run that was not saved, so it cannot be made longer; "
                "use --run DIR for a new run, or --fresh to start this one over"
            )
    return summary if completed else None


def _refuse_another(before: Config, config: Config, folder: Path) -> None:
    changes = mathematical(before, config)
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
