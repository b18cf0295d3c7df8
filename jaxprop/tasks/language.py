"""Language modelling: the next token of each position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.data.tokenizers import BYTES, restore
from jaxprop.metrics import bytes_per_token
from jaxprop.tasks.panels import Panel, sample_text
from jaxprop.tasks.task import Task, bind
from jaxprop.train.distillation import Teacher
from jaxprop.types import Batch, Source


def language(config: Config, sources: Mapping[str, Source], teacher: Teacher | None = None) -> Task:
    """Binds softmax cross-entropy a token, perplexity, accuracy, and bits a byte where the data know their bytes.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["vocabulary"]` is the number of tokens.
      teacher: that the model learns from, or None.

    Returns:
      The task; its reference is the loss of a unigram model, counted on train and measured on test.
    """
    train = sources["train"]
    unigram = train.info.get("unigram_nats")
    told = "bytes" in train.take(np.zeros(1, np.int64))
    model, objective, spec = bind(config, train, {"bytes_per_token": bytes_per_token} if told else {}, teacher)
    return Task(
        model,
        objective,
        spec,
        predict=predict,
        derived=partial(_derived, of_bytes=train.info.get("tokenizer") == BYTES),
        reference={} if unigram is None else {"unigram_loss": unigram},
        panels=(_samples(train),),
    )


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


def _derived(measured: Mapping[str, float], *, of_bytes: bool) -> dict[str, float]:
    """Perplexity; and bits a byte, which compare models of different tokenizers."""
    # exp overflows above 709 nats, where an untrained model may well be
    loss = measured["loss"]
    perplexity = {"perplexity": math.exp(loss) if loss < 700 else math.inf}
    length = 1.0 if of_bytes else measured.get("bytes_per_token")
    return perplexity | ({"bits_per_byte": loss / math.log(2) / length} if length else {})


def _samples(train: Source) -> Panel:
    """The panel of the next tokens, written by the tokenizer of the data."""
    stored = train.prepared.get("tokenizer")
    if stored is None or train.info.get("tokenizer") == BYTES:
        return sample_text
    return lambda predictions, batch: sample_text(predictions, batch, restore(stored).decode)
