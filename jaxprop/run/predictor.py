"""Predictions of an opened run for batches of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprop.core.compiler import fast_options
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.run.opened import Opened
from jaxprop.run.precision import policy_of
from jaxprop.tasks.task import predictions
from jaxprop.types import PyTree

GROWTH = 4  # programs are compiled for 1, 4, 16, ... examples, so that padding is at most this factor


class Predictor:
    """Predicts with a run's model; only a few sizes of batches are compiled, and others are padded.

    Args:
      opened: the run.
      ema: use what the run's evaluations use: the moving average of the parameters where one is kept. Otherwise the
        parameters as they were trained.
    """

    def __init__(self, opened: Opened, *, ema: bool = True):
        step, config = opened.experiment.step, opened.config
        self.params = step.eval_params(opened.state) if ema else opened.state.params
        self.extras = step.eval_extras(opened.state) if ema else opened.state.extras
        self.batch_size = config.data.eval_batch_size or config.data.batch_size
        self._example = opened.prepared.example
        self._class_names = list(opened.prepared.info.get("class_names", ()))
        self._programs: dict[tuple[tuple[str, Any], ...], Any] = {}
        self._made = lambda options: jax.jit(
            predictions(opened.experiment.task, policy_of(config), **options), compiler_options=fast_options()
        )

    def __call__(self, batch: Any, **options: Any) -> dict[str, np.ndarray]:
        """Predicts every example of a batch.

        Args:
          batch: arrays by key with a leading axis of any length N; or the array of `inputs` alone.
          **options: of the task, such as `beams=4` where it writes text.

        Returns:
          What the task's `predict` says, `[N, ...]` each; and `label`, the names of the classes, where they have names.

        Raises:
          ShapeError: an array does not fit the model.
          UsageError: the task has no such option.
        """
        arrays = fitted(batch, self._example)
        length = _length(arrays)
        starts = range(0, max(length, 1), self.batch_size)
        named = tuple(sorted(options.items()))
        if named not in self._programs:
            self._programs[named] = self._made(options)
        predict = self._programs[named]
        parts = [
            self._part(predict, jax.tree.map(lambda x, at=at: x[at : at + self.batch_size], arrays)) for at in starts
        ]
        found = jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)
        if self._class_names and "class" in found:
            found["label"] = np.asarray(self._class_names)[found["class"]]
        return found

    def _part(self, predict: Any, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
        length = _length(arrays)
        size = min(_size_for(length), self.batch_size)
        weight = (np.arange(size) < length).astype(np.float32)
        padded = jax.tree.map(lambda x: np.concatenate([x, np.zeros((size - length, *x.shape[1:]), x.dtype)]), arrays)
        try:
            found = jax.device_get(predict(self.params, self.extras, {**padded, "weight": weight}))
        except JaxpropError:
            raise
        except KeyError as error:
            raise ShapeError(
                f"the batch has no {error.args[0]!r}; the model takes {_described(self._example)}"
            ) from error
        except (TypeError, ValueError) as error:
            why = str(error).strip().split("\n")[0]
            raise ShapeError(
                f"the model cannot take {_described(jax.tree.map(lambda x: x[0], arrays))} ({why}); "
                f"it was trained on {_described(self._example)}, each with a leading axis of examples"
            ) from error
        return jax.tree.map(lambda x: np.asarray(x)[:length], found)


def fitted(batch: Any, example: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch as arrays of the dtypes that a model was trained on.

    Args:
      batch: arrays by key, or the array of `inputs` alone.
      example: shape and dtype of one example, by key.

    Returns:
      The arrays, without `labels` and `weight`.

    Raises:
      ShapeError: an array has another number of axes, cannot be converted without loss, or is longer than the others.

    Example:
      >>> example = {"inputs": jax.ShapeDtypeStruct((3,), np.float32)}
      >>> fitted([[1, 2, 3]], example)["inputs"].dtype.name
      'float32'
      >>> fitted([1, 2, 3], example)
      Traceback (most recent call last):
      jaxprop.errors.ShapeError: inputs: expected [N, 3], N examples, got [3]; one example is a batch too: x[None]
    """
    given = dict(batch) if isinstance(batch, Mapping) else {"inputs": batch}
    arrays: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("labels", "weight"):
            continue
        wanted = example.get(name)
        if wanted is None:
            arrays[name] = jax.tree.map(np.asarray, value)
        elif isinstance(wanted, Mapping):
            if not isinstance(value, Mapping) or set(value) != set(wanted):
                raise ShapeError(f"{name}: expected the arrays {', '.join(wanted)}")
            arrays[name] = {key: _as(f"{name}/{key}", value[key], wanted[key]) for key in wanted}
        else:
            arrays[name] = _as(name, value, wanted)
    lengths = {len(leaf) for leaf in jax.tree.leaves(arrays)}
    if len(lengths) != 1:
        got = ", ".join(map(str, sorted(lengths))) or "none"
        raise ShapeError(f"the arrays of a batch must have one number of examples, got {got}")
    return arrays


def _as(name: str, value: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype != wanted.dtype:
        raise ShapeError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.ndim != len(wanted.shape) + 1:
        axes = ", ".join(["N", *map(str, wanted.shape)])
        one = "; one example is a batch too: x[None]" if array.ndim == len(wanted.shape) else ""
        raise ShapeError(f"{name}: expected [{axes}], N examples, got {list(array.shape)}{one}")
    if array.dtype.kind == "f" and wanted.dtype.kind in "biu":
        raise ShapeError(
            f"{name}: expected {wanted.dtype}, got {array.dtype}; convert it yourself if that loses nothing"
        )
    return array.astype(wanted.dtype, copy=False)


def _length(arrays: PyTree) -> int:
    return len(jax.tree.leaves(arrays)[0])


def _size_for(length: int) -> int:
    size = 1
    while size < length:
        size *= GROWTH
    return size


def _described(example: PyTree) -> str:
    flat, _ = jax.tree_util.tree_flatten_with_path(example)
    named = {"/".join(str(getattr(key, "key", key)) for key in path): leaf for path, leaf in flat}
    shapes = {
        name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named.items() if name not in ("labels", "weight")
    }
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
