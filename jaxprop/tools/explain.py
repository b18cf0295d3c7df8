"""Explains one training step of a configuration."""

from __future__ import annotations

from jaxprop.config.schema.config import Config
from jaxprop.errors import UsageError
from jaxprop.run import compose
from jaxprop.train.explain import NotFinite
from jaxprop.train.explanation import Explanation

LATEST = 1000  # number of steps in which a learning rate above 0 is searched for


def explain(config: Config) -> Explanation:
    """Explains one training step of a configuration, without writing any file.

    Args:
      config: the configuration.

    Returns:
      The explanation of the first step whose learning rate is not 0.

    Raises:
      JaxpropError: the configuration cannot be built.
      UsageError: the loss or the gradient is not finite.
    """
    single, notes = _single(config)
    experiment = compose.compose(single)
    state, batch = experiment.init(single.run.seed), next(experiment.stream)
    assert experiment.optimizer is not None
    first = next((n for n in range(LATEST) if float(experiment.optimizer.schedule(n)) > 0), 0)
    for _ in range(first):
        state, _ = experiment.step(state, batch, "lean")
        batch = next(experiment.stream)
    if first:
        notes.append(f"the schedule's rate is 0 up to step {first}, so this is step {first + 1}")
    try:
        found = experiment.step.explain(state, batch)
    except NotFinite as error:
        raise UsageError(
            "the loss or its gradient is not finite in this step, so it cannot be explained; lower optimizer.lr, "
            "or check the data"
        ) from error
    return found._replace(notes=(*notes, *found.notes))


def _single(config: Config) -> tuple[Config, list[str]]:
    """The configuration with one device and without accumulation, and notes on what that changes."""
    notes = []
    if config.run.accumulate > 1:
        notes.append(f"run.accumulate is {config.run.accumulate}, but this step uses the batch as a whole")
    run = config.run.model_copy(update={"accumulate": 1, "steps_per_call": 1})
    parallel = config.parallel.model_copy(update={"devices": 1})
    return config.model_copy(update={"run": run, "parallel": parallel}), notes
