"""The scale of inputs: statistics of each feature, standardizing by them, and inputs that are far from unit scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_LARGE, _SMALL = 10.0, 0.05  # root mean squares between which the largest feature is near enough to 1


class Scale(NamedTuple):
    """The statistics of each feature, an entry of the inputs' last axis.

    Args:
      mean: float64 `[F]`; of inputs that are single numbers `[1]`.
      std: the standard deviation.
    """

    mean: np.ndarray
    std: np.ndarray


def scale_of(chunks: Iterable[np.ndarray]) -> Scale:
    """Returns the mean and the standard deviation of each feature, in one pass and in float64.

    Args:
      chunks: parts of the inputs, `[n, ..., F]` or `[n]`; at least one number in all.

    Example:
      >>> scale = scale_of([np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[4.0, 1.0]])])
      >>> scale.mean.tolist(), scale.std.round(3).tolist()
      ([2.0, 1.0], [1.633, 0.0])
    """
    count, total, squares, shift = 0, np.zeros(()), np.zeros(()), None
    for chunk in chunks:
        values = chunk.astype(np.float64).reshape(-1, chunk.shape[-1] if chunk.ndim > 1 else 1)
        if not values.size:
            continue
        if shift is None:
            shift = values[0]  # so that squares stay exact where the mean is much larger than the deviation
        values = values - shift
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    assert shift is not None
    mean = total / count
    return Scale(mean + shift, np.sqrt(np.maximum(squares / count - mean**2, 0)))


def standardize(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Returns `(x - mean) / std` of each feature in float32; a constant feature becomes 0.

    Args:
      values: `[n, ..., F]` or `[n]`.
      scale: of the training inputs.

    Example:
      >>> standardize(np.array([[0.0, 1.0], [4.0, 1.0]]), Scale(np.array([2.0, 1.0]), np.array([2.0, 0.0]))).tolist()
      [[-1.0, 0.0], [1.0, 0.0]]
    """
    std = np.where(scale.std > 0, scale.std, 1.0)
    return ((values.astype(np.float64) - scale.mean) / std).astype(np.float32)


def as_json(scale: Scale) -> dict[str, list[float]]:
    """Returns a scale as JSON values, for `Source.prepared`."""
    return {"mean": scale.mean.tolist(), "std": scale.std.tolist()}


def from_json(held: Mapping[str, Any]) -> Scale:
    """Returns the scale that `as_json` has described.

    Example:
      >>> from_json(as_json(Scale(np.array([0.5]), np.array([0.25])))).std.tolist()
      [0.25]
    """
    return Scale(np.array(held["mean"], np.float64), np.array(held["std"], np.float64))


def far_from_unit(scale: Scale, name: str, fix: str, features: Sequence[str] = ()) -> str | None:
    """Returns what to tell a person whose inputs are far from unit scale, with the line that fixes it; else None.

    Args:
      scale: of the training inputs.
      name: of the inputs in messages, such as `train.npz:inputs`.
      fix: the line, such as `data.standardize: true`.
      features: their names, where they have such.

    Example:
      >>> far_from_unit(Scale(np.array([0.1, 900.0]), np.array([1.0, 50.0])), "x.npy", "data.standardize: true")
      'x.npy: feature 1 has the mean 900 and the standard deviation 50, far from unit scale; set data.standardize: true'
    """
    size = np.sqrt(scale.mean**2 + scale.std**2)
    largest = int(size.argmax())
    if not size[largest] or _SMALL <= size[largest] <= _LARGE:
        return None
    feature = f"feature {features[largest] if features else largest}" if len(size) > 1 else "the values"
    held = "has" if len(size) > 1 else "have"
    figures = f"the mean {scale.mean[largest]:.3g} and the standard deviation {scale.std[largest]:.3g}"
    return f"{name}: {feature} {held} {figures}, far from unit scale; set {fix}"
