"""The share of transcripts that are longer than their frames allow. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.ctc import frames_needed
from jaxprop.core.examples import weighted_sum
from jaxprop.metrics.totals import SumCount, mean
from jaxprop.types import Batch, Metric


def infeasible_examples(outputs: dict[str, jax.Array], batch: Batch) -> SumCount:
    """Number of examples whose labels need more frames than there are, so that they have no alignment.

    Args:
      outputs: with `lengths` int `[B]`, the number of frames.
      batch: `labels` int `[B, L]`, `label_lengths` int `[B]`; if present, `weight` `[B]`.

    Returns:
      Weighted number of such examples, weighted number of examples.

    Example:
      >>> batch = {"labels": jnp.array([[1, 1], [1, 2]]), "label_lengths": jnp.array([2, 2])}
      >>> [x.item() for x in infeasible_examples({"lengths": jnp.array([2, 2])}, batch)]
      [1.0, 2.0]
    """
    needed = frames_needed(jnp.asarray(batch["labels"]), jnp.asarray(batch["label_lengths"]))
    weights = {name: batch[name] for name in ("weight",) if name in batch}
    return weighted_sum((needed > outputs["lengths"].astype(jnp.int32)).astype(jnp.float32), weights, tokens=False)


infeasible = Metric(infeasible_examples, mean)
