"""Language modelling: the next token of each position."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.tasks.panels import sample_text
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Batch, Source


def language(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds softmax cross-entropy a token, perplexity, and accuracy.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["vocabulary"]` is the number of tokens.

    Returns:
      The task; its reference is the loss of a unigram model, counted on train and measured on test.
    """
    train = sources["train"]
    unigram = train.info.get("unigram_nats")
    reference = {} if unigram is None else {"unigram_loss": unigram}
    return Task(*bind(config, train), predict=predict, derived=_perplexity, reference=reference, panels=(sample_text,))


def predict(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the likeliest next token at each position, int32 `[B, T]`, and its probability, float32 `[B, T]`.

    Args:
      outputs: logits `[B, T, V]`; position t is about token t + 1.
      batch: not looked at.

    Example:
      >>> logits = jnp.array([[[50.0, 0.0], [0.0, 50.0]]])
      >>> {name: x.tolist() for name, x in predict(logits, {}).items()}
      {'token': [[0, 1]], 'probability': [[1.0, 1.0]]}
    """
    del batch
    shares = jax.nn.softmax(wide(outputs), -1)
    return {"token": jnp.argmax(shares, -1).astype(jnp.int32), "probability": jnp.max(shares, -1)}


def _perplexity(measured: Mapping[str, float]) -> dict[str, float]:
    # exp overflows above 709 nats, where an untrained model may well be
    loss = measured["loss"]
    return {"perplexity": math.exp(loss) if loss < 700 else math.inf}
