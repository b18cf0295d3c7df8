"""Evaluates a state on the test split."""

from __future__ import annotations

import math

import jax
import numpy as np

from jaxprop import data
from jaxprop.parallel.placement import place_batch
from jaxprop.run.clock import Clock
from jaxprop.run.compose import Experiment
from jaxprop.run.interrupt import Interrupts
from jaxprop.types import TrainState


def evaluate(
    experiment: Experiment, state: TrainState, clock: Clock | None = None, stop: Interrupts | None = None
) -> dict[str, float] | None:
    """Evaluates a state on the test split: exact means, padding left out.

    Args:
      experiment: with `test`, the split.
      state: evaluated by the moving averages that it keeps, else by its parameters.
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
    params, extras = experiment.step.eval_params(state), experiment.step.eval_extras(state)
    totals: dict[str, np.ndarray] = {}
    for i, batch in enumerate(data.one_pass(experiment.test, size, config.run.eval_batches)):
        if stop is not None and stop.received is not None:
            return None
        placed = batch if mesh is None else place_batch(batch, mesh)
        call = (params, extras, placed)
        sums = clock.compiled(experiment.evaluate, *call) if i == 0 and clock else experiment.evaluate(*call)
        for name, pair in jax.device_get(sums).items():
            # float64 on the host: adding thousands of batches in float32 would lose the last digits
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    # The loss first: what comes out of jit is sorted by name.
    order = sorted(totals, key=lambda name: name != "loss")
    means = {name: float(totals[name][0] / totals[name][1]) if totals[name][1] else math.nan for name in order}
    return means | experiment.task.derived(means)
