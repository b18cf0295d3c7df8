"""An experiment: everything a configuration stands for, built of its parts."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop import data, tasks
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.data import FileSection, Mixture
from jaxprop.config.schema.growth import GrowBySteps
from jaxprop.data.batches import Batches
from jaxprop.errors import ConfigError
from jaxprop.health.signals.guard import init_health
from jaxprop.models.lora import adapted
from jaxprop.models.quantized import expect_products
from jaxprop.parallel.hosts import check_alike, process_count
from jaxprop.parallel.mesh import make_mesh, parts
from jaxprop.parallel.placement import local_rows, place_batch
from jaxprop.parallel.sharding import replicated
from jaxprop.run.parametrized import parametrization_of
from jaxprop.run.precision import policy_of
from jaxprop.run.room import expect_room, is_traced
from jaxprop.run.steps import Shapes, rules_of, step_of
from jaxprop.run.vocabulary import with_chunks
from jaxprop.train import optimizers
from jaxprop.train.compiled import TrainStep
from jaxprop.train.distillation import Teacher
from jaxprop.train.eval_step import EvalStep, make_eval_step
from jaxprop.train.mup import Growth
from jaxprop.types import Batch, Objective, PyTree, Source, TrainState

Change = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]  # of the parameters and extras that were drawn


class Experiment(NamedTuple):
    """Everything a configuration stands for, built and ready to step.

    It holds no state: whoever trains calls `init`, since the step donates the state that it is given.

    Args:
      config: the configuration, with the digests of code of the user's own; or the settings of `jaxprop.fit`.
      task: model, loss and metrics bound together.
      sources: the data's splits.
      stream: training batches: a `data.Stream`, or one that is resumed in another way.
      validation: the split, or the batches, that evaluations of the run use and the best checkpoint is chosen by:
        `validation`, else `test`, else None.
      test: the split for the end alone, where `validation` is another; else None.
      optimizer: the update rule with its schedule; None for `jaxprop.fit`, which is given one.
      init: `(seed, change) -> state` before the first step, with the parameters and the random stream of that seed;
        `change(params, extras)`, if given, says what they are instead.
      step: the compiled train step.
      evaluate: the compiled eval step, `(params, extras, batch) -> {name: total}`, and how its totals are finished.
      mesh: the devices, or None for a single one.
      total_steps: steps the run takes from start to end.
      growths: how each parameter grows with the model's width, where its rate does; None with standard rates.
      teacher: that the model learns from in training; None without one, and where a run is only used.
    """

    config: Any
    task: tasks.Task
    sources: Mapping[str, Source]
    stream: Any
    validation: Source | Iterable[Any] | None
    test: Source | None
    optimizer: optimizers.Optimizer | None
    init: Callable[..., TrainState]
    step: TrainStep
    evaluate: EvalStep
    mesh: Mesh | None
    total_steps: int
    growths: tuple[Growth, ...] | None = None
    teacher: Teacher | None = None


def assemble(
    config: Config,
    sources: Mapping[str, Source],
    teacher: Teacher | None = None,
    *,
    health: bool = True,
    mesh: Mesh | None = None,
) -> Experiment:
    """Builds everything a configuration names, of data and a teacher that are open.

    Args:
      config: the configuration, whose code has been checked.
      sources: the data's splits.
      teacher: that `task.teacher` names; None to leave it out, where the model is not trained.
      health: whether the step has its signals; without them, what they cost can be measured.
      mesh: devices in place of those that the configuration names, for a step that is compiled and not run.

    Returns:
      The experiment.

    Raises:
      JaxpropError: the data, the model, the optimizer and the devices do not fit together.
    """
    train = sources["train"]
    _check_batch_size(config, train)
    here, precision = mesh is None, policy_of(config)
    mesh = mesh_of(config) if here else mesh
    task = tasks.make_task(with_chunks(config, train, mesh), sources, teacher)
    if config.precision.quantize:
        expect_products(config.precision.quantize.name, jax.devices()[:1] if mesh is None else mesh.devices.flat)
    stream = open_stream(config, train, mesh if here else None)
    total_steps = config.run.steps or _steps_of_epochs(config, stream.batches_per_epoch)
    model = task.model
    assert model is not None
    init_model, example = jax.jit(model.init), next(data.one_pass(train, 2))
    shapes, beside = init_model.eval_shape(jax.random.key(0), example)
    tasks.check_outputs(config, task, shapes, beside, example)
    if precision.overrides:  # one that matches nothing is told before anything is made
        key = jax.eval_shape(partial(jax.random.key, 0))
        jax.eval_shape(lambda *given: task.objective.mean_loss(*given, precision)[0], shapes, beside, example, key)
    plain = None if config.lora is None else jax.jit(tasks.model_of(_without_adapters(config), train).init)
    scaling = parametrization_of(config, task, train, (shapes, beside), example)
    growths = None if scaling is None else scaling.growths
    made = step_of(config, task, Shapes(shapes, beside, growths), total_steps=total_steps, mesh=mesh, health=health)
    step = made.step

    def init(seed: int, change: Change = _as_drawn) -> TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        draw = init_model if plain is None else plain
        if not is_traced():
            expect_room(jax.eval_shape(lambda p, x: step.init(p, key=run_key, extras=x), shapes, beside), mesh)
        if mesh is not None and plain is None:  # drawn where they lie: a device may have no room for all of them
            where = step.shardings(jax.eval_shape(partial(step.init, key=run_key), shapes)).params
            draw = jax.jit(model.init, out_shardings=(where, replicated(mesh)))
        drawn, extras = draw(params_key, example)
        if scaling is not None and not is_traced():  # which changes no shape
            drawn = scaling.scaled(drawn)
        params, extras = change(drawn, extras)
        if config.lora is not None:  # which keeps in few bits what it is given, so after the weights of another run
            params = jax.jit(partial(adapted, section=config.lora))(params, key=params_key)
        state = step.init(params, key=run_key, extras=extras)
        # One structure whatever health.on_alert says, so that a checkpoint resumes under another setting of it.
        return step.place(state._replace(health=init_health(state.health.direction)))

    validation, test = sources.get("validation"), sources.get("test")
    return Experiment(
        config=config, task=task, sources=sources, stream=stream, validation=validation or test,
        test=test if validation else None, optimizer=made.optimizer, init=init, step=step,
        evaluate=evaluate_of(config, task.objective, mesh), mesh=mesh,
        total_steps=total_steps, growths=growths, teacher=teacher,
    )  # fmt: skip


def _steps_of_epochs(config: Config, batches_per_epoch: int) -> int:
    batches, grown = (config.run.epochs or 0) * batches_per_epoch, config.run.grow_batch
    return grown.steps(batches) if isinstance(grown, GrowBySteps) else batches


def _without_adapters(config: Config) -> Config:
    return config.model_copy(update={"lora": None})


def evaluate_of(config: Config, objective: Objective, mesh: Mesh | None) -> EvalStep:
    """Returns the compiled eval step of a configuration.

    Args:
      config: the configuration.
      objective: its loss and metrics.
      mesh: the devices, or None for a single one.
    """
    across = config.parallel.deterministic is not None
    rules = () if mesh is None else rules_of(config)
    return make_eval_step(objective, policy_of(config), mesh=mesh, rules=rules, whole=across)


def _as_drawn(params: PyTree, extras: PyTree) -> tuple[PyTree, PyTree]:
    return params, extras


def open_stream(
    config: Config, train: Source, mesh: Mesh | None = None
) -> data.Stream | data.MixtureStream | data.Workers:
    """Returns the stream of training batches, at its start: of their rows, those that this process has devices for."""
    section = config.data
    rows = None if mesh is None else local_rows(mesh, section.batch_size)
    if config.run.per_call > 1 or config.run.grow_batch is not None:
        train = train._replace(buckets=None)  # the batches of one call are stacked
    train = data.as_kept(train)
    stream: data.Stream | data.MixtureStream
    if isinstance(section, Mixture):
        lengths = train.info[data.LENGTHS]
        stream = data.MixtureStream(
            train, lengths, _phases(section, lengths), section.batch_size, config.run.seed, shuffle=section.shuffle,
            rows=rows,
        )  # fmt: skip
    else:
        stream = data.Stream(
            train, section.batch_size, config.run.seed, shuffle=section.shuffle, drop_last=section.drop_last, rows=rows
        )
    if isinstance(section, FileSection | Mixture) and section.engine == "grain":
        return data.Workers(stream, section.workers)
    return stream


def _phases(section: Mixture, lengths: list[int]) -> list[data.Phase]:
    """The weights of a mixture by step; by default each source's share of all examples."""
    phases = section.phases() or [(0, tuple(float(length) for length in lengths))]
    return [data.Phase(after, weights) for after, weights in phases]


def mesh_of(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """Returns the mesh of a configuration, or None for a single device that needs none.

    Args:
      config: the configuration.
      devices: those to use; default: as many as it says of those there are.

    Raises:
      ConfigError: the batch cannot be divided over them.
      UsageError: the sizes of the mesh do not fit them.
    """
    mesh = make_mesh(config.parallel.devices if devices is None else devices, **config.parallel.mesh.model_dump())
    microbatch, count = config.data.batch_size // config.run.accumulate, parts(mesh)
    if microbatch % count:
        raise ConfigError(
            f"data.batch_size: a microbatch of {microbatch} cannot be divided over the {count} devices of this "
            f"machine; use a multiple of {count * config.run.accumulate}, or set parallel.devices"
        )
    needed = config.parallel.deterministic or config.parallel.offload_optimizer
    return mesh if mesh.size > 1 or needed else None


def _check_batch_size(config: Config, train: Source) -> None:
    if config.data.batch_size > train.length:
        raise ConfigError(
            f"data.batch_size: {config.data.batch_size} is more than the {train.length} training examples there are; "
            f"use at most {train.length}"
        )


def place(experiment: Experiment, batch: Batch) -> tuple[Any, float]:
    """Puts a batch, or several stacked, where the step takes them.

    Args:
      experiment: with `mesh`, the devices.
      batch: arrays on the host.

    Returns:
      The batch on the devices, and its number of examples.
    """
    per_call, mesh = experiment.config.run.per_call, experiment.mesh
    examples = _examples(batch, per_call)
    # On one device jit takes NumPy as it is; a transfer of its own would only cost another dispatch on CPU.
    if mesh is None:
        return (batch if jax.default_backend() == "cpu" else jax.device_put(batch)), examples
    _check_parts(experiment, batch, per_call)
    return place_batch(batch, mesh, per_call), examples


def _check_parts(experiment: Experiment, batch: Batch, per_call: int) -> None:
    """Raises UsageError where processes give parts of different sizes of a batch; streams of our own never do."""
    if process_count() == 1 or not isinstance(experiment.stream, Batches):
        return
    shapes = {str(np.shape(leaf)[: 1 if per_call == 1 else 2]) for leaf in jax.tree.leaves(batch)}
    if shapes != _known_parts.get(experiment.stream):
        check_alike("the size of its part of a batch", sorted(shapes))
        _known_parts[experiment.stream] = shapes


_known_parts: weakref.WeakKeyDictionary[Batches, set[str]] = weakref.WeakKeyDictionary()


def _examples(batch: Any, per_call: int) -> float:
    """Number of examples that count, by their weights where there are such, else by the first axis."""
    weight = batch.get("weight") if isinstance(batch, Mapping) else None
    if weight is not None and np.ndim(weight) == (1 if per_call == 1 else 2):
        return float(np.sum(weight))
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    axes = 1 if per_call == 1 else 2
    return float(math.prod(max((shape[:axes] for shape in shapes if len(shape) >= axes), default=(1,))))
