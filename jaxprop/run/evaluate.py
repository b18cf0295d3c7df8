"""Evaluates a state on a split."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxprop import data
from jaxprop.data.batches import as_arrays
from jaxprop.metrics.totals import add_up, finished
from jaxprop.parallel.hosts import check_alike, process_count
from jaxprop.parallel.mesh import parts
from jaxprop.parallel.placement import local_rows, place_batch
from jaxprop.run.clock import Clock
from jaxprop.run.experiment import Experiment
from jaxprop.run.interrupt import Interrupts
from jaxprop.types import Source, TrainState


def _nothing() -> None:
    """What is called where nobody watches."""


def evaluate(
    experiment: Experiment,
    state: TrainState,
    clock: Clock | None = None,
    stop: Interrupts | None = None,
    *,
    source: Source | Iterable[Any] | None = None,
    goes_on: Callable[[], None] = _nothing,
) -> dict[str, float] | None:
    """Evaluates a state on a split: exact, padding left out.

    Args:
      experiment: the run.
      state: evaluated by the moving averages that it keeps, else by its parameters.
      clock: books the first call as compiling.
      stop: asks for an early end.
      source: the split, or its batches; default: the run's own for evaluations.
      goes_on: called after each batch.

    Returns:
      Every metric, `loss` among them, and what the task derives from them; None where `stop` cut it short.
    """
    config, mesh = experiment.config, experiment.mesh
    source = experiment.validation if source is None else source
    assert source is not None
    size = config.data.eval_batch_size or config.data.batch_size
    rows = None
    if mesh is not None and size is not None:
        size = -(-size // parts(mesh)) * parts(mesh)  # what is added is padding, and masked
        rows = local_rows(mesh, size)
    params, extras = experiment.step.eval_params(state), experiment.step.eval_extras(state)
    totals: dict[str, Any] = {}
    for i, batch in enumerate(_batches(source, size, config.run.eval_batches, rows)):
        if stop is not None and stop.received is not None:
            return None
        placed = batch if mesh is None else place_batch(batch, mesh)
        call = (params, extras, placed)
        sums = clock.compiled(experiment.evaluate, *call) if i == 0 and clock else experiment.evaluate(*call)
        add_up(totals, sums)
        goes_on()
    figures = finished(totals, experiment.evaluate.metrics)
    return figures | experiment.task.derived(figures)


def _batches(source: Source | Iterable[Any], size: int | None, limit: int | None, rows: Any) -> Iterator[Any]:
    if isinstance(source, Source):
        assert size is not None
        return data.one_pass(source, size, limit, rows)
    return _in_step(as_arrays(batch) for batch in itertools.islice(source, limit))


def _in_step(batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of the user's own, of which every process needs equally many: each is evaluated by all of them together.

    Raises:
      UsageError: another process has more of them, fewer, or one of another size.
    """
    if process_count() == 1:
        yield from batches
        return
    for batch in itertools.chain(batches, [None]):
        sizes = sorted({np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}) if batch is not None else "none"
        check_alike("the size of its part of an evaluation's next batch", sizes)
        if batch is not None:
            yield batch
