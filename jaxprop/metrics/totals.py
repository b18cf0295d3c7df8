"""What metrics measured of each batch: checked on the device, added up and finished on the host. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.examples import row_weights
from jaxprop.errors import ShapeError, UsageError
from jaxprop.types import Batch, Metric, Rows, Sums

SumCount = tuple[jax.Array, jax.Array]


def mean(total: tuple[Any, Any]) -> float:
    """Finishes `(sum, count)`: the quotient, and NaN of nothing.

    Example:
      >>> mean((3.0, 4.0)), mean((0.0, 0.0))
      (0.75, nan)
    """
    value, count = (float(x) for x in total)
    return value / count if count else math.nan


def as_metric(name: str, metric: Metric | Callable[[Any, Any], SumCount]) -> Metric:
    """Returns a `Metric` for a plain function `(outputs, batch) -> (sum, count)`; a `Metric` as it is.

    Raises:
      UsageError: it is neither.
      ShapeError: when it is called, if the function returns anything but two scalars.

    Example:
      >>> as_metric("size", lambda outputs, batch: (outputs.sum(), 1.0)).finish((6.0, 2.0))
      3.0
    """
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise UsageError(
            f"expected the metric {name} to be a Metric or a function (outputs, batch) -> (sum, count), "
            f"got {type(metric).__name__}"
        )

    def update(outputs: Any, batch: Any) -> SumCount:
        returned = metric(outputs, batch)
        if not is_sum_count(returned):
            shapes = jax.tree.map(jnp.shape, returned)
            raise ShapeError(
                f"expected the metric {name} to return (sum, count), two scalars that add up over batches, got shapes "
                f"{shapes}; for anything else give Metric(update, finish)"
            )
        return returned

    return Metric(update, mean)


def is_sum_count(total: Any) -> bool:
    """Whether a total is `(sum, count)`, two scalars.

    Example:
      >>> is_sum_count((1.0, 2.0)), is_sum_count((1.0, jnp.ones(3))), is_sum_count(Rows(1.0, 2.0))
      (True, False, False)
    """
    if not isinstance(total, tuple) or isinstance(total, Rows) or len(total) != 2:
        return False
    return all(not isinstance(x, tuple | list | dict | None) and jnp.shape(x) == () for x in total)


def measure(metrics: Mapping[str, Metric], outputs: Any, batch: Any) -> Sums:
    """Returns what each metric measures of a batch; rows with the weight of the batch where they have none.

    Raises:
      ShapeError: rows without a common first axis.

    Example:
      >>> kept = Metric(lambda outputs, batch: Rows({"score": outputs}), lambda rows: rows["score"].max())
      >>> batch = {"weight": jnp.array([1.0, 0.0])}
      >>> measure({"largest": kept}, jnp.array([3.0, 5.0]), batch)["largest"].weight.tolist()
      [1.0, 0.0]
    """
    outputs = jax.lax.stop_gradient(outputs)
    totals = {name: metric.update(outputs, batch) for name, metric in metrics.items()}
    return {name: _checked(name, t, batch) if isinstance(t, Rows) else t for name, t in totals.items()}


def _checked(name: str, rows: Rows, batch: Batch) -> Rows:
    weight = row_weights(batch) if rows.weight is None else rows.weight
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(rows.values)}
    if weight is not None:
        sizes.add(jnp.shape(weight))
    if len(sizes) != 1 or () in sizes:
        shapes = jax.tree.map(jnp.shape, Rows(rows.values, weight))
        raise ShapeError(
            f"expected the rows of the metric {name} to be arrays [B, ...] with one entry an example, and a weight "
            f"[B], got {shapes}"
        )
    return Rows(rows.values, weight)


def add_up(totals: dict[str, Any], sums: Sums) -> None:
    """Adds what was measured of one batch to `totals`, in place: sums in 64 bits, rows one after the other.

    Args:
      totals: by metric; empty before the first batch.
      sums: from an eval step, one batch's.

    Example:
      >>> totals = {}
      >>> for batch in (1.0, 2.0):
      ...     add_up(totals, {"loss": (batch, 1)})
      >>> finished(totals, {})
      {'loss': 1.5}
    """
    for name, new in jax.device_get(sums).items():
        if isinstance(new, Rows):
            kept = slice(None) if new.weight is None else np.asarray(new.weight) != 0
            totals.setdefault(name, []).append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[kept], new.values))
        else:
            # adding thousands of batches in float32 would lose the last digits
            new = jax.tree.map(_in_64_bits, new)
            totals[name] = jax.tree.map(np.add, totals[name], new) if name in totals else new


def _in_64_bits(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(
        {"f": np.float64, "c": np.complex128}.get(x.dtype.kind, np.int64 if x.dtype.kind in "biu" else np.float64)
    )


def finished(totals: Mapping[str, Any], metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Returns the figures of all that was added up, the loss first.

    Args:
      totals: from `add_up`.
      metrics: by name, of the objective; one that is not named is a `(sum, count)`.

    Raises:
      UsageError: two metrics report one name, or one does not report numbers.
      ShapeError: rows whose shapes differ between batches.

    Example:
      >>> spread = Metric(lambda outputs, batch: Rows(outputs), lambda rows: {"low": rows.min(), "high": rows.max()})
      >>> totals = {}
      >>> for outputs, weight in (([3.0, 1.0], [1.0, 1.0]), ([2.0, 9.0], [1.0, 0.0])):
      ...     add_up(totals, measure({"spread": spread}, jnp.array(outputs), {"weight": jnp.array(weight)}))
      >>> finished(totals, {"spread": spread})
      {'low': 1.0, 'high': 3.0}
    """
    figures: dict[str, float] = {}
    order = list(metrics)
    for name in sorted(totals, key=lambda name: (name != "loss", order.index(name) if name in metrics else -1)):
        total = totals[name]
        total = _concatenated(name, total) if isinstance(total, list) else total
        finish = metrics[name].finish if name in metrics else mean
        reported = finish(total)
        for key, value in (reported if isinstance(reported, Mapping) else {name: reported}).items():
            if key in figures:
                raise UsageError(f"two metrics report {key!r}; rename one of them")
            figures[key] = _number(name, value)
    return figures


def _concatenated(name: str, parts: list[Any]) -> Any:
    try:
        return jax.tree.map(lambda *chunks: np.concatenate(chunks), *parts)
    except ValueError as error:
        raise ShapeError(
            f"expected the rows of the metric {name} to have one shape in every batch; "
            f"pad them to the longest ({error})"
        ) from error


def _number(name: str, value: Any) -> float:
    if np.shape(value) != () or np.asarray(value).dtype.kind not in "biuf":
        raise UsageError(
            f"expected finish of the metric {name} to return a number or {{name: number}}, got {type(value).__name__} "
            f"of shape {np.shape(value)}"
        )
    return float(value)
