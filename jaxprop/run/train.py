"""Trains a configuration in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxprop import data
from jaxprop.code.load import check_code
from jaxprop.config.dump import dump, with_absolute_paths
from jaxprop.config.schema.config import Config
from jaxprop.core.precision import check_device
from jaxprop.errors import UsageError
from jaxprop.run import calls, linear, own_code, prepared
from jaxprop.run.blackbox import Recorder
from jaxprop.run.compose import Experiment, compose
from jaxprop.run.conduct import Attend, Outcome, Undertaking, attended, conduct
from jaxprop.run.folder import expanded, write_text
from jaxprop.run.initial import begin, resolved
from jaxprop.run.memory import explained
from jaxprop.run.precision import policy_of
from jaxprop.run.resume import check_data, finished
from jaxprop.run.served import PROMOTION
from jaxprop.run.swept import is_sweep
from jaxprop.run.teacher import resolved_teacher, with_digest
from jaxprop.sinks import Sink
from jaxprop.types import Source, TrainState

Compose = Callable[[Config, Mapping[str, Source] | None], Experiment]


def train(
    config: Config,
    folder: str | os.PathLike[str],
    *,
    fresh: bool = False,
    quiet: bool = False,
    brief: bool = False,
    composing: Compose | None = None,
    sinks: Sequence[Sink] = (),
    attend: Attend = attended,
) -> Outcome:
    """Trains a configuration in a folder, or goes on where the folder's newest checkpoint stands.

    Args:
      config: the configuration.
      folder: the run's folder.
      fresh: start over, as `conduct` does.
      quiet: no console.
      brief: a console of warnings alone: alerts to act on, and the responses to them.
      composing: makes the experiment, where it shares its program with other runs.
      sinks: further destinations of records.
      attend: who asks the run to stop, as in `Undertaking`.

    Returns:
      The summary and the exit code: 0 done, 3 diverged, 75 or 130 interrupted after saving.

    Raises:
      UsageError: the folder holds a run whose mathematics another configuration would change, or a champion's version.
      JaxpropError: the run cannot be built, or its folder not be written.
    """
    if (Path(folder) / PROMOTION).is_file():
        raise UsageError(
            f"{folder} is a version of a champion, which is never trained further; 'jaxprop retrain' challenges it, "
            "and --run DIR names the folder of a new run"
        )
    if is_sweep(Path(folder)):
        raise UsageError(
            f"{folder} is the folder of a sweep, whose runs have folders in it; choose another with --run DIR"
        )
    config = resolved_teacher(resolved(config), expanded(folder))
    chosen: list[str] = []  # what a person is told of the steps a call

    def composed() -> Experiment:
        before = config if fresh else with_digest(calls.as_before(config, expanded(folder)), expanded(folder))
        experiment, notes = calls.composed(before, partial(_composed, composing or compose))
        chosen.extend(notes)
        return experiment

    def begun(experiment: Experiment) -> tuple[TrainState, list[str]]:
        state, notes = begin(experiment)
        return state, [*notes, *chosen]

    undertaking = Undertaking(
        compose=composed,
        finished=lambda folder: _finished(calls.as_before(config, folder), folder),
        complete=_complete,
        recorder=lambda folder, experiment: Recorder(folder, experiment.config, experiment.mesh),
        trace=_trace,
        describe=_describe,
        compared=linear.compared,
        explained=explained,
        begin=begun,
        sinks=sinks,
        attend=attend,
    )
    return conduct(undertaking, folder, fresh=fresh, quiet=quiet, brief=brief).outcome


def _finished(config: Config, folder: Path) -> dict[str, Any] | None:
    check_code(config)  # first: a key that code does not take is a mistake, whatever the run before it was given
    return finished(config, folder)


def _complete(experiment: Experiment, folder: Path) -> None:
    check_data(experiment.stream, folder / "checkpoints")
    own_code.tell_changes(folder, experiment.config)


def _composed(composing: Compose, config: Config, sources: Mapping[str, Source] | None) -> Experiment:
    experiment = composing(config, sources)
    check_device(policy_of(config), jax.devices()[0])
    # It is stored, and may be read in another working directory.
    return experiment._replace(config=with_absolute_paths(experiment.config))


def _describe(experiment: Experiment, folder: Path) -> None:
    own_code.tell_changes(folder, experiment.config)
    write_text(folder / "config.yaml", dump(experiment.config, folder))
    own_code.write(folder, experiment.config)
    prepared.write(folder, prepared.prepared_of(experiment.sources["train"], experiment.sources))


def _trace(experiment: Experiment, state: TrainState) -> None:
    """Traces the train step, so that what cannot be trained is known before anything is removed for it."""
    config = experiment.config
    batch = next(data.one_pass(experiment.sources["train"], config.data.batch_size))
    if config.run.per_call > 1:
        batch = {name: values[None] for name, values in batch.items()}
    experiment.step.lower(state, batch)
