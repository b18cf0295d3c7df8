"""Connectionist temporal classification. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.ctc import BLANK, log_likelihood
from jaxprop.core.examples import row_weights
from jaxprop.core.precision import wide
from jaxprop.errors import ShapeError
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def ctc(outputs: dict[str, jax.Array], batch: Batch) -> PerExample:
    """Negative log-likelihood of a transcript, summed over all its alignments to the frames, a label.

        l = -log p(y | x) / max(L, 1),   W = w max(L, 1)

    With that weight, sum(W l) / sum(W) is the mean over all labels. An example whose labels need more frames than it
    has cannot be aligned: its likelihood is 0, and it has the weight 0 here. The metric `infeasible` counts these.

    Args:
      outputs: `logits` `[B, T, V]`, V with the blank 0, and the number of real frames as `lengths` int `[B]`.
      batch: `labels` int `[B, L]` in `1..V-1`, `label_lengths` int `[B]`; if present, `weight` `[B]`.

    Returns:
      Loss in nats a label `[B]`, NaN where a label is no token; weight `[B]`.

    Raises:
      ShapeError: outputs or labels of another form.

    Example:
      >>> outputs = {"logits": jnp.zeros((1, 2, 2)), "lengths": jnp.array([2])}
      >>> loss, weight = ctc(outputs, {"labels": jnp.array([[1]]), "label_lengths": jnp.array([1])})
      >>> loss.round(4).tolist(), weight.tolist()  # three of four paths
      ([0.28769999742507935], [1.0])

    Reference:
      Graves et al., Connectionist Temporal Classification, 2006.
    """
    logits, lengths = ctc_outputs(outputs)
    labels, label_lengths = jnp.asarray(batch["labels"]), jnp.asarray(batch["label_lengths"])
    if labels.ndim != 2 or labels.shape[0] != logits.shape[0]:
        raise ShapeError(f"ctc expected labels [{logits.shape[0]}, L], got {list(labels.shape)}")
    weight = row_weights({name: batch[name] for name in ("weight",) if name in batch})
    # Selected before the loss: what counts for nothing has the gradient 0, also where it is not finite.
    frames = jnp.arange(logits.shape[1], dtype=jnp.int32) < lengths[:, None].astype(jnp.int32)
    if weight is not None:
        frames, labels = frames & (weight != 0)[:, None], jnp.where((weight != 0)[:, None], labels, 1)
    logits = jnp.where(frames[..., None], logits, 0)
    inside = jnp.arange(labels.shape[1], dtype=jnp.int32) < label_lengths[:, None].astype(jnp.int32)
    known = jnp.all(~inside | ((labels > BLANK) & (labels < logits.shape[-1])), 1)
    labels = jnp.where(inside & known[:, None], labels, 1)
    value, fits = log_likelihood(jax.nn.log_softmax(wide(logits), -1), lengths, labels, label_lengths)
    count = jnp.maximum(label_lengths, 1).astype(value.dtype)
    weight = jnp.ones_like(count) if weight is None else weight.astype(value.dtype)
    # a factor, so that the gradient of a label that is no token is NaN too
    return -value / count * jnp.where(known, 1, jnp.nan).astype(value.dtype), jnp.where(fits, weight * count, 0)


def ctc_outputs(outputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns logits and lengths of a model for CTC.

    Raises:
      ShapeError: they are something else.

    Example:
      >>> ctc_outputs({"logits": jnp.zeros((1, 2, 3)), "lengths": jnp.array([2])})[0].shape
      (1, 2, 3)
    """
    if not isinstance(outputs, dict) or not {"logits", "lengths"} <= outputs.keys():
        raise ShapeError("ctc expected the model to return {'logits': [B, T, V], 'lengths': [B]}")
    logits, lengths = jnp.asarray(outputs["logits"]), jnp.asarray(outputs["lengths"])
    if logits.ndim != 3 or lengths.shape != logits.shape[:1]:
        raise ShapeError(
            f"ctc expected logits [B, T, V] and lengths [B], got {list(logits.shape)} and {list(lengths.shape)}"
        )
    return logits, lengths
