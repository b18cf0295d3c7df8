"""A configuration built and ready to step, its batches on the devices, and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop import data, parallel
from jaxprop.clock import Clock
from jaxprop.config.root import Config
from jaxprop.types import Batch, Measurements, PyTree, Source, Sums, TrainState


class Step(Protocol):
    """The compiled train step; `jaxprop.step.TrainStep` is one."""

    def __call__(
        self, state: TrainState, batch: Batch, detail: str | None = None, /
    ) -> tuple[TrainState, Measurements]: ...

    def lower(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Any: ...


class Experiment(NamedTuple):
    """Everything a configuration stands for, built and ready to step.

    Args:
      config: the configuration.
      step: the compiled train step.
      evaluate: the compiled eval step, `(params, extras, batch) -> {name: (sum, count)}`.
      stream: training batches.
      test: the split to evaluate on, or None.
      derived: metrics of an evaluation -> further figures that follow from them.
      mesh: the devices, or None for a single one.
      total_steps: steps the run takes from start to end.
    """

    config: Config
    step: Step
    evaluate: Callable[[PyTree, PyTree, Mapping[str, Any]], Sums]
    stream: data.Stream
    test: Source | None
    derived: Callable[[Mapping[str, float]], dict[str, float]]
    mesh: Mesh | None
    total_steps: int


class Stop(Protocol):
    """What tells the loop to save and leave; `jaxprop.interrupt.Interrupts` is one."""

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
    return parallel.place_batch(batch, mesh, experiment.config.run.steps_per_call), examples


def evaluate(
    experiment: Experiment, state: TrainState, clock: Clock | None = None, stop: Stop | None = None
) -> dict[str, float] | None:
    """Evaluates a state on the test split: exact means, padding left out.

    Args:
      experiment: with `test`, the split.
      state: its `ema` is evaluated if there is one, else its `params`.
      clock: books the first call as compiling.
      stop: asks for an early end.

    Returns:
      The mean of every metric, `loss` among them, and what the task derives from them; None where `stop` cut it short.
    """
    config, mesh = experiment.config, experiment.mesh
    assert experiment.test is not None
    size = config.data.eval_batch_size or config.data.batch_size
    if mesh is not None:
        size = -(-size // mesh.size) * mesh.size  # what is added is padding, and masked
    params = state.params if isinstance(state.ema, tuple) and not state.ema else state.ema
    totals: dict[str, np.ndarray] = {}
    for i, batch in enumerate(data.one_pass(experiment.test, size, config.run.eval_batches)):
        if stop is not None and stop.received is not None:
            return None
        placed = batch if mesh is None else parallel.place_batch(batch, mesh)
        call = (params, state.extras, placed)
        sums = clock.compiled(experiment.evaluate, *call) if i == 0 and clock else experiment.evaluate(*call)
        for name, pair in jax.device_get(sums).items():
            # float64 on the host: adding thousands of batches in float32 would lose the last digits
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    # The loss first: what comes out of jit is sorted by name.
    order = sorted(totals, key=lambda name: name != "loss")
    means = {name: float(totals[name][0] / totals[name][1]) if totals[name][1] else math.nan for name in order}
    return means | experiment.derived(means)
