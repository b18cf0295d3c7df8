"""What every format gives: the content of its file, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.core.jaxprs.evaluate import run as run_jaxpr
from jaxprop.core.precision import policy
from jaxprop.run.loaded import LoadedRun
from jaxprop.run.precision import policy_of
from jaxprop.tasks.task import predictions

UNSEEN = ("labels", "weight")  # of a batch: what is not known of an example that is to be predicted


class Made(NamedTuple):
    """A model in one format.

    Args:
      name: of its file.
      content: of its file.
      loading: Python that loads it, for the model card.
      inputs: shape and dtype of the arrays that it takes, by name; a leading None stands for any number of examples.
      outputs: the same of what it returns.
      notes: sentences for the model card.
    """

    name: str
    content: bytes
    loading: str
    inputs: Mapping[str, tuple[tuple[int | None, ...], str]]
    outputs: Mapping[str, tuple[tuple[int | None, ...], str]]
    notes: tuple[str, ...] = ()


def prediction_function(run: LoadedRun, precision: str | None = None) -> Any:
    """Returns `batch -> predictions` of a run with its parameters built in, for batches without padding.

    Where the task has raw inputs, the batch is of these.

    Args:
      run: the run.
      precision: what it is computed in; default: as the run was trained.
    """
    computed = policy_of(run.opened.config) if precision is None else policy(precision)
    task = run.opened.experiment.task
    predict = predictions(task, computed, padded=False)
    params, extras = run.params, run.extras
    if task.raw is None:
        return lambda batch: predict(params, extras, batch)
    prepare = task.raw.prepare
    return lambda raw: predict(params, extras, prepare(raw))


def notes_of(run: LoadedRun) -> tuple[str, ...]:
    """Returns what there is to say of a run's raw inputs, its products and its predictions, for the model card."""
    raw, quantize = run.opened.experiment.task.raw, run.opened.config.precision.quantize
    products = (
        () if quantize is None else (f"Its layers multiply in 8 bits, as they were trained to ({quantize.name}).",)
    )
    return (*(() if raw is None else raw.notes), *products)


def inputs_of(run: LoadedRun, predict: Any) -> dict[str, Any]:
    """Returns shape and dtype of one example of those arrays of a batch that the predictions depend on.

    Args:
      run: the run.
      predict: as `prediction_function` returns it.
    """
    raw = run.opened.experiment.task.raw
    held = run.opened.prepared.example if raw is None else raw.example
    example = {name: leaf for name, leaf in held.items() if name not in UNSEEN}
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), example)
    traced = jax.make_jaxpr(predict)(batch)
    leaves, structure = jax.tree.flatten(batch)
    # What a value depends on, as the bits of an integer: one for each array of the batch.
    found = run_jaxpr(traced, [1 << i for i in range(len(leaves))], _depends, lambda _: 0)
    read = jax.tree.unflatten(structure, [any(bits >> i & 1 for bits in found) for i in range(len(leaves))])
    return {name: example[name] for name in example if any(jax.tree.leaves(read[name]))}


def _depends(equation: Any, inputs: list[int]) -> list[int]:
    bits = 0
    for value in inputs:
        bits |= value
    return [bits] * len(equation.outvars)


def shapes_of(tree: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Returns shapes and dtypes by path, with None for the number of examples.

    Example:
      >>> shapes_of({"inputs": jax.ShapeDtypeStruct((1, 8), np.float32)})
      {'inputs': ((None, 8), 'float32')}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = [(".".join(str(getattr(key, "key", key)) for key in path), leaf) for path, leaf in flat]
    return {name: ((None, *leaf.shape[1:]), np.dtype(leaf.dtype).name) for name, leaf in named}
