"""Packs what a step measured into one float32 array, laid out as `Measurements` reads it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.types import OUTPUT_SIGNALS, RARE_COLUMNS, RARE_SCALARS, SCALARS, Layout, Measurements, Sums


def outputs(sums: Sums) -> dict[str, Any]:
    """What an objective reported of its outputs, as means over microbatches; NaN what it did not.

    Example:
      >>> {name: float(value) for name, value in outputs({"_output_max": (6.0, 2.0)}).items()}
      {'output_max': 3.0, 'output_logsumexp': nan}
    """
    nan = (jnp.float32(jnp.nan), jnp.float32(1))
    pairs = {name: sums.get(name, nan) for name in OUTPUT_SIGNALS}
    return {name.lstrip("_"): total / count for name, (total, count) in pairs.items()}


def pack(
    sums: Sums,
    scalars: Mapping[str, Any],
    rows: Sequence[jax.Array] | None = None,
    rare: Mapping[str, Any] | None = None,
    taps: jax.Array | None = None,
    layout: Layout | None = None,
) -> Measurements:
    """Packs one step's record.

    Args:
      sums: metrics of the batch.
      scalars: by the names of `SCALARS`; those that are missing are NaN.
      rows: in the order of `COLUMNS`, one `[L]` or several `[n, L]` at a time; or None for a record without rows.
      rare: by the names of `RARE_SCALARS` and `RARE_COLUMNS`, or None.
      taps: `[len(TAP_COLUMNS), T]`.
      layout: names of layers and taps; the rest is filled in here.

    Returns:
      The record.

    Example:
      >>> m = pack({"accuracy": (1.0, 2.0)}, {"loss": 0.5})
      >>> float(m.loss), m.layout.metrics, bool(jnp.isnan(m.grad_norm))
      (0.5, ('accuracy',), True)
    """
    nan = jnp.float32(jnp.nan)
    shown = {name: pair for name, pair in sums.items() if name not in OUTPUT_SIGNALS}
    layout = (layout or Layout((), ()))._replace(metrics=tuple(shown), rare=rare is not None)
    if rows is None:
        layout = layout._replace(layers=(), sizes=(), fans=())
    values = [scalars.get(name, nan) for name in SCALARS]
    values += [value for pair in shown.values() for value in pair]
    blocks = [jnp.ravel(columns) for columns in rows or ()]
    if rare is not None and taps is not None:
        blocks.append(_vector([rare.get(name, nan) for name in RARE_SCALARS]))
        missing = jnp.full(len(layout.layers), nan)
        blocks += [jnp.asarray(rare.get(name, missing), jnp.float32) for name in RARE_COLUMNS]
        blocks.append(jnp.ravel(taps))
    packed = jnp.concatenate([_vector(values), *blocks])
    assert packed.shape == (layout.length,)
    return Measurements(packed, layout)


def join(early: Measurements, last: Measurements) -> Measurements:
    """The records of S - 1 steps `[S - 1, n]` and of a last one that measured more, `[m]`, as one `[S, m]`.

    Example:
      >>> early = pack({}, {"loss": 1.0})
      >>> early = Measurements(early.packed[None], early.layout)
      >>> last = pack({}, {"loss": 2.0}, (), {}, jnp.zeros((7, 0)))
      >>> [float(x) for x in join(early, last).loss]
      [1.0, 2.0]
    """
    missing = last.layout.length - early.layout.length
    padded = jnp.pad(early.packed, ((0, 0), (0, missing)), constant_values=jnp.nan)
    return Measurements(jnp.concatenate([padded, last.packed[None]]), last.layout._replace(early=early.layout))


def _vector(values: Sequence[Any]) -> jax.Array:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
