"""`jaxprop.fit`: the loop of the command line for a loss function, an optimizer and batches of one's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import yaml
from jax.sharding import Mesh
from pydantic import ValidationError

from jaxprop.checkpoint import stored_config
from jaxprop.checkpoint.folder import steps_in
from jaxprop.checkpoint.manifest import read_manifests
from jaxprop.config.diff import HARMLESS, LENGTH, differences
from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.fit import Settings
from jaxprop.config.tasks import known_better, untold_mode
from jaxprop.core import trees
from jaxprop.data.batches import EXACT, as_stream
from jaxprop.errors import UsageError
from jaxprop.health.signals.guard import init_health
from jaxprop.health.signals.settings import Signals
from jaxprop.parallel.hosts import process_count
from jaxprop.parallel.rules import Rule
from jaxprop.run.averages import for_evaluation
from jaxprop.run.compose import Experiment, place
from jaxprop.run.conduct import Conducted, Undertaking, conduct, open_checkpoints
from jaxprop.run.folder import ABOUT_FIT, read_summary, write_text
from jaxprop.run.precision import policy_of, scaling_of
from jaxprop.run.resume import has_records, refuse_another
from jaxprop.run.status import Status
from jaxprop.run.steps import averages_of
from jaxprop.sinks import Sink
from jaxprop.tasks.task import Task, no_predictions
from jaxprop.train.compiled import TrainStep
from jaxprop.train.eval_step import make_eval_step
from jaxprop.train.make import make_train_step
from jaxprop.train.objective import LossFn, as_objective
from jaxprop.train.trainable import Trainable
from jaxprop.types import Model, Objective, PyTree, Schedule, Source, Spec, TrainState


class Fitted(NamedTuple):
    """What `fit` leaves.

    Args:
      folder: of the run; `jaxprop report FOLDER` shows it.
      status: `completed`, `interrupted` or `diverged`.
      step: of the state.
      state: the best that was evaluated and saved, else the newest; with `ema`, the moving averages.
      metrics: of the evaluation of that state.
      summary: what `summary.json` holds.
      params: all parameters as that evaluation used them: with `ema_decay` their moving averages, what is not trained
        as it is.
    """

    folder: Path
    status: str
    step: int
    state: TrainState
    metrics: Mapping[str, float]
    summary: Mapping[str, Any]
    params: PyTree


def fit(
    loss_fn: LossFn | Objective,
    tx: optax.GradientTransformation,
    batches: Any,
    *,
    run: str | os.PathLike[str],
    steps: int,
    params: PyTree = None,
    extras: PyTree = None,
    evaluate: Source | Iterable[Any] | None = None,
    eval_every: int | None = None,
    health: bool | Mapping[str, Any] = True,
    stop: Mapping[str, Any] | None = None,
    timeout: Mapping[str, Any] | Literal[False] | None = None,
    checkpoint: bool | Mapping[str, Any] = True,
    sinks: Mapping[str, Any] | Sequence[Sink] = (),
    seed: int = 0,
    precision: str | Mapping[str, Any] = "float32",
    accumulate: int = 1,
    steps_per_call: int = 1,
    ema_decay: float | Sequence[float] | None = None,
    swa: Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    clip: float | None = None,
    trainable: Trainable = None,
    gradient: str | Callable[..., Any] | None = None,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] = (),
    stateful: bool = False,
    log_every: int = 50,
    batch_size: int | None = None,
    prefetch: int = 2,
    fresh: bool = False,
    quiet: bool = False,
) -> Fitted:
    """Trains in a run's folder, with everything that `jaxprop train` does around its steps.

    Records, layer signals and alerts are written while it runs, responses act on alerts, checkpoints are saved, and the
    same call goes on where the folder's newest checkpoint stands. Ctrl-C saves and returns.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, or an objective of `jaxprop.loss_from`.
      tx: any optax transformation.
      batches: a `jaxprop.data.Stream`, a Grain iterator or dataset, a torch `DataLoader`, a list or a generator. What a
        resume can promise is told by each: the exact next batch where the batches keep a position of their own;
        otherwise the batches that were used are drawn again and dropped.
      run: the run's folder.
      steps: number of steps in all.
      params: the initial parameters; not needed where the objective's model can make them.
      extras: what the model carries besides parameters.
      evaluate: a `jaxprop.data.Source`, or batches that can be iterated again and again.
      eval_every: steps between evaluations; by default an epoch, or a tenth of the steps where batches tell no length.
      health: False measures no layers and watches nothing; a mapping has the keys of the section `health` of a
        configuration, such as `{"on_alert": ["clip", "rollback"]}`.
      checkpoint: False saves nothing; a mapping has the keys of the section `checkpoint`.
      stop: when the run ends early: the keys of `run.stop` in a configuration, such as `{"patience": 5}`.
      timeout: when a run that hangs is ended: the keys of `run.timeout` in a configuration, such as `{"data": 60}`;
        False never ends one.
      sinks: the keys of the section `sinks`, or sinks of your own besides the usual ones.
      seed: of the initial parameters and of the keys that the loss is given.
      precision: a name as in `jaxprop.make_train_step`, or the keys of the section `precision` of a configuration, such
        as `{"policy": "bfloat16", "overrides": [{"match": "head", "dtype": "float32"}]}`.
      accumulate, steps_per_call, ema_decay, schedule, clip, trainable, gradient, mesh, rules, stateful:
        as in `jaxprop.make_train_step`.
      swa: the keys of `run.swa` in a configuration, such as `{"start": 0.75}`.
      log_every: steps between logged records.
      batch_size: of the source that is evaluated.
      prefetch: number of batches prepared ahead in the background.
      fresh: start over.
      quiet: no console.

    Returns:
      How the run ended, with its state.

    Raises:
      UsageError: a setting is wrong, or the folder holds another run.
      JaxpropError: the step cannot be trained, or the folder not be written.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> x = np.linspace(-1, 1, 32, dtype=np.float32)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ran = fit(
      ...         lambda params, batch, key: jnp.mean((params["w"] * batch["x"] - 3 * batch["x"]) ** 2),
      ...         optax.sgd(0.5), [{"x": x}], run=folder + "/line", steps=20, params={"w": jnp.zeros(())}, quiet=True,
      ...     )
      ...     ran.status, ran.step, round(float(ran.params["w"]), 1)
      ('completed', 20, 3.0)
    """
    stream = as_stream(batches, depth=(prefetch + 2) * _whole(steps_per_call))
    evaluates = _check_evaluation(evaluate, batch_size) and _rhythm(eval_every, steps, steps_per_call, stream)
    settings = _settings(
        data={"batch_size": batch_size, "prefetch": prefetch},
        **_sections(precision, health, checkpoint, sinks),
        run={"steps": steps, "seed": seed, "log_every": log_every, "accumulate": accumulate, "stop": stop,
            "steps_per_call": steps_per_call, "ema_decay": ema_decay, "swa": swa,
            "eval_every": evaluates, "timeout": timeout},
    )  # fmt: skip

    def make() -> Experiment:
        objective, computes = as_objective(loss_fn, stateful=stateful), policy_of(settings)
        step = make_train_step(
            objective, tx, computes, accumulate, steps_per_call, _signals(settings), **averages_of(settings, steps),
            schedule=schedule, clip=clip, scaling=scaling_of(settings), trainable=trainable,
            gradient=gradient, mesh=mesh, rules=rules)  # fmt: skip
        return Experiment(
            config=settings, task=Task(objective.model, objective, Spec({}, {}), no_predictions), sources={},
            stream=stream, validation=evaluate, test=None, optimizer=None,
            init=_init(objective.model, params, extras, stream, step), step=step,
            evaluate=make_eval_step(objective, computes, mesh=mesh, rules=rules), mesh=mesh, total_steps=steps,
        )  # fmt: skip

    task = _undertaking(settings, make, () if isinstance(sinks, Mapping) else tuple(sinks))
    return _fitted(conduct(task, run, fresh=fresh, quiet=quiet), Path(run).expanduser())


def _sections(precision: Any, health: Any, checkpoint: Any, sinks: Any) -> dict[str, Any]:
    """The sections of those arguments that may be the keys of one."""
    return {
        "precision": precision if isinstance(precision, Mapping) else {"policy": precision},
        "health": health if isinstance(health, Mapping) else {"layers": health, "watch": health},
        "checkpoint": checkpoint if isinstance(checkpoint, Mapping) else {"enabled": checkpoint},
        "sinks": sinks if isinstance(sinks, Mapping) else {},
    }


def _undertaking(settings: Settings, make: Callable[[], Experiment], sinks: tuple[Sink, ...]) -> Undertaking:
    return Undertaking(
        compose=make,
        finished=lambda folder: _finished(settings, folder),
        complete=lambda _experiment, _folder: None,
        recorder=_Finder,
        trace=_trace,
        describe=_describe,
        explained=lambda *_: contextlib.nullcontext(),
        begin=_begin,
        sinks=sinks,
    )


def _begin(experiment: Experiment) -> tuple[TrainState, list[str]]:
    """The state before the first step, and what a resume promises where that is less than the exact next batch."""
    settings = experiment.config
    said = promise(experiment.stream) if settings.checkpoint.enabled else EXACT
    return experiment.init(settings.run.seed), [] if said == EXACT else [said]


class _Finder:
    """Finds out where a step that was not finite began to be so, while its batch is still at hand."""

    def __init__(self, _folder: Path, experiment: Experiment):
        self._step, self._per_call = experiment.step, experiment.config.run.per_call
        self._batches: list[tuple[int, int, Any]] = []
        self._left = experiment.config.health.blackboxes
        self._failing = False
        self.began = ""  # a sentence on the first step that failed

    def take(self, step: int, size: int, batch: Any) -> None:
        """Remembers the batch of a call: its last step, how many it takes, and what it was given."""
        self._batches = [*self._batches[-3:], (step, size, batch)]

    def read(self, step: int, m: Any, newest: Callable[[], TrainState], _now: int) -> str | None:
        """Takes in a record; says where a NaN began at the first step of a row that failed."""
        first, self._failing = m.skipped and not self._failing, bool(m.skipped)
        held = next((held for held in self._batches if held[0] - held[1] < step <= held[0]), None)
        if not first or held is None or self._left <= 0:
            return None
        self._left -= 1
        last, _, batch = held
        if self._per_call > 1:
            batch = jax.tree.map(lambda array: array[step - last - 1], batch)
        # It is found operation by operation, which one process cannot do with arrays that lie on several.
        finding = self._step.find_nonfinite(newest(), batch) if process_count() == 1 else None
        told = f"step {step} was not finite" + ("" if finding is None else f": {finding.message}")
        self.began = self.began or f"The first: {told}"
        return told


def _whole(steps_per_call: Any) -> int:
    if not isinstance(steps_per_call, int):  # what a configuration leaves to the run, a library's caller decides
        raise UsageError(f"fit: steps_per_call: expected a whole number, at least 1, got {steps_per_call!r}")
    return steps_per_call


def _settings(**sections: Any) -> Settings:
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "run")
        raise UsageError(f"fit: {where}: {first['msg']}; got {first['input']!r}") from error
    stop = settings.run.stop
    if stop is not None and settings.run.eval_every is None and (stop.patience, stop.target) != (None, None):
        raise UsageError("fit: stop has patience or target, which are about evaluations; give evaluate=...")
    _check_modes(settings)
    return settings


def _check_modes(settings: Settings) -> None:
    """Guessing whether more is better would keep the worst checkpoint where the guess is wrong."""
    best, stop = settings.checkpoint, settings.run.stop
    if best.best is not None and best.mode is None and known_better(best.best) is None:
        raise UsageError(f"fit: checkpoint: {untold_mode(best.best, 'its key mode')}")
    name = stop.metric if stop else None
    if stop and name not in (None, best.best) and stop.mode is None and known_better(str(name)) is None:
        raise UsageError(f"fit: stop: {untold_mode(str(name), 'its key mode')}")


def _rhythm(eval_every: int | None, steps: int, per_call: int, stream: Any) -> int:
    if eval_every is not None:
        return eval_every
    every = stream.batches_per_epoch or max(1, steps // 10)
    return max(1, round(every / per_call)) * per_call


def _check_evaluation(evaluate: Any, batch_size: int | None) -> bool | None:
    """Whether there is something to evaluate on, or None; raises UsageError where that would not do."""
    if evaluate is None:
        return None
    if isinstance(evaluate, Source):
        if batch_size is None:
            raise UsageError("fit evaluates on a Source in batches; give batch_size, such as batch_size=256")
    elif not hasattr(evaluate, "__iter__") or iter(evaluate) is evaluate:
        raise UsageError(
            "fit evaluates more than once, so evaluate must be a list, a DataLoader or another iterable that begins "
            f"anew, or a jaxprop.data.Source; got {type(evaluate).__name__}; a generator fits as list(generator)"
        )
    return True


def _signals(settings: Settings) -> bool | Signals:
    health = settings.health
    if not health.layers:
        return False
    responses = health.responses
    return Signals(
        taps=health.taps,
        curvature=health.curvature,
        spikes=next((name for name in ("skip", "clip") if name in responses), None),
        respond=bool({"clip", "cut_lr", "rollback"} & set(responses)),
    )


def _init(
    model: Model | None, params: PyTree, extras: PyTree, stream: Any, step: TrainStep
) -> Callable[[int], TrainState]:
    if params is None and model is None:
        raise UsageError("a plain loss function does not say what its parameters are; give fit params=...")

    def init(seed: int) -> TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        made, carried = params, extras
        if made is None:
            assert model is not None
            made, carried = jax.jit(model.init)(params_key, _first_batch(stream))
        state = step.init(made, key=run_key, extras=carried)
        return step.place(state._replace(health=init_health(state.health.direction)))

    return init


def _first_batch(stream: Any) -> PyTree:
    if hasattr(stream, "peek"):
        return stream.peek()
    before = stream.state()
    batch = next(stream)
    stream.restore(before)
    return batch


def _trace(experiment: Experiment, state: TrainState) -> None:
    batch = _first_batch(experiment.stream)
    if experiment.config.run.per_call > 1:
        batch = jax.tree.map(lambda array: np.asarray(array)[None], batch)
    experiment.step.lower(state, place(experiment, batch)[0])


def _describe(experiment: Experiment, folder: Path) -> None:
    write_text(folder / "config.yaml", ABOUT_FIT + yaml.safe_dump(to_builtins(experiment.config), sort_keys=False))


def _finished(settings: Settings, folder: Path) -> dict[str, Any] | None:
    """The summary of a completed run; raises UsageError where the folder holds another run than these settings'."""
    summary, checkpoints = read_summary(folder), folder / "checkpoints"
    if steps_in(checkpoints) and not read_manifests(checkpoints):
        return None  # all are damaged, which is told where one is to be restored
    if steps_in(checkpoints):
        before = stored_config(checkpoints)
        if "model" in before:
            raise UsageError(f"{folder} holds a run of 'jaxprop train'; give fit another folder, run='runs/...'")
        changes = differences(before, to_builtins(settings))
        harmless = (*HARMLESS, *LENGTH, ("data",))
        refuse_another([one for one in changes if not any(one.path[: len(p)] == p for p in harmless)], folder)
        return summary if summary is not None and summary.get("status") == Status.COMPLETED else None
    if has_records(folder):
        raise UsageError(
            f"{folder} holds records of a run that was not saved; give fit another folder, or fresh=True to start over"
        )
    return None


def _fitted(ran: Conducted, folder: Path) -> Fitted:
    """What is returned: the best state, or the newest where none was evaluated."""
    summary, experiment = ran.outcome.summary, ran.experiment
    state, step = ran.state, int(summary["step"])
    best = summary.get("best") if experiment.config.checkpoint.enabled else None
    if state is None or (best is not None and best["step"] != step):
        abstract = jax.eval_shape(lambda: experiment.init(0)) if state is None else jax.tree.map(trees.abstract, state)
        with open_checkpoints(experiment, folder) as checkpoints:
            restored = checkpoints.restore(abstract, checkpoints.best() if best is not None else checkpoints.latest())
        assert restored is not None
        state, step = restored.state, restored.step
    found = best if best is not None and best["step"] == step else summary["metrics"]
    metrics = {name: value for name, value in found.items() if name != "step"}
    params = experiment.step.eval_params(for_evaluation(experiment, state, metrics))
    return Fitted(folder, summary["status"], step, state, metrics, summary, params)


def promise(batches: Any) -> str:
    """What a resume of `fit` can promise with some batches.

    Args:
      batches: as `fit` takes them.

    Example:
      >>> promise([{"x": 1.0}]).partition(",")[0]
      'a resume draws the batches that were used already'
    """
    return getattr(as_stream(batches, depth=1), "promise", EXACT)
