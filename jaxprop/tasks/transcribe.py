"""Transcription: audio to text by connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import Acoustic
from jaxprop.core.ctc import Decoded, align, beam, greedy, spans
from jaxprop.core.precision import wide
from jaxprop.metrics import error_rates
from jaxprop.metrics.error_rates import text_of
from jaxprop.tasks.task import Task, bind
from jaxprop.tasks.transcripts import SHOWN, words, worst_transcripts
from jaxprop.tasks.words import number, usual_words
from jaxprop.types import Batch, Source

Decode = Callable[[jax.Array, jax.Array], Decoded]


def transcribe(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds CTC, and word and character error rate.

    Args:
      config: the run's configuration; `task.beam` says how transcripts are read from outputs.
      sources: `train`, and `validation` or `test` to evaluate on; `info` holds `characters` and `sample_rate`.

    Returns:
      The task; its reference is the error rate of empty transcripts.
    """
    train = sources["train"]
    decode = greedy if config.task.beam is None else partial(beam, size=config.task.beam)
    characters = train.info.get("characters") or [chr(0x100 + k) for k in range(train.info["vocabulary"] - 1)]
    model, objective, spec = bind(config, train, {"errors": error_rates(characters, decode)})
    rate = train.info["sample_rate"]
    step = config.model.hop_ms * config.model.stride / 1000 if isinstance(config.model, Acoustic) else None
    return Task(
        model,
        objective,
        spec,
        predict=partial(predict, decode=decode, rate=rate, step=step),
        reference={"empty_wer": 1.0},  # every word of the reference is a deletion
        panels=(partial(worst_transcripts, characters=characters, rate=rate),),
        shown=SHOWN,
        describe=describe,
    )


def predict(
    outputs: dict[str, jax.Array], batch: Batch, *, decode: Decode = greedy, rate: int, step: float | None = None
) -> dict[str, jax.Array]:
    """Returns the tokens of each recording, with their times.

    Args:
      outputs: `logits` `[B, T, V]` and `lengths` `[B]`.
      batch: with `inputs` `[B, N]`, whose shape gives the time of an output where `step` does not.
      decode: `(log_probs, lengths) -> Decoded`.
      rate: samples a second.
      step: seconds from one output to the next.

    Returns:
      `tokens` int32 `[B, T]`, padded with 0, and their `count` `[B]`; `start` and `end` of each in seconds, float32
      `[B, T]`; and `probability` `[B]`: of a token, the geometric mean over the outputs of the recording. Where the
      batch has `labels`, also the `label_start` and `label_end` of these, by their likeliest alignment.

    Example:
      >>> outputs = {"logits": 50 * jax.nn.one_hot(jnp.array([[0, 1, 1, 2]]), 3), "lengths": jnp.array([4])}
      >>> found = predict(outputs, {}, rate=8000, step=0.04)
      >>> found["tokens"].tolist(), found["count"].tolist(), found["start"].round(2)[0, :2].tolist()
      ([[1, 2, 0, 0]], [2], [0.03999999910593033, 0.11999999731779099])
    """
    logits, lengths = wide(outputs["logits"]), outputs["lengths"]
    if step is None:
        step = jnp.shape(batch["inputs"])[1] / rate / logits.shape[1]
    log_probs = jax.nn.log_softmax(logits, -1)
    found = decode(log_probs, lengths)
    seconds = jnp.float32(step)
    count = jnp.maximum(lengths, 1).astype(found.log_prob.dtype)
    said = {
        "tokens": found.tokens,
        "count": found.size,
        "start": found.first.astype(jnp.float32) * seconds,
        "end": found.last.astype(jnp.float32) * seconds,
        "probability": jnp.exp(found.log_prob / count),
    }
    if "labels" in batch:  # of a split that is evaluated: where its own labels fit best
        known = align(log_probs, lengths, jnp.asarray(batch["labels"]), jnp.asarray(batch["label_lengths"]))
        first, last = spans(known)
        said |= {"label_start": first.astype(jnp.float32) * seconds, "label_end": last.astype(jnp.float32) * seconds}
    return said


def describe(found: Mapping[str, np.ndarray], i: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """Says what was read of a recording.

    Args:
      found: predictions of a batch, from `predict`.
      i: the recording.
      info: of the training data: `characters`; without them, tokens are told by their numbers.

    Returns:
      The `text`, its `words` with the seconds of their `start` and `end`, and the `probability` of an output, the
      geometric mean.

    Example:
      >>> times = np.array([[0.1, 0.2, 0.0]])
      >>> told = {"tokens": np.array([[1, 2, 0]]), "count": np.array([2]), "start": times, "end": times + 0.05}
      >>> describe(told | {"probability": np.array([0.875])}, 0, {"characters": ["a", "b"]})
      {'text': 'ab', 'words': [{'word': 'ab', 'start': 0.1, 'end': 0.25}], 'probability': 0.875}
    """
    characters = info.get("characters")
    if characters is None:
        return usual_words(found, i, info)
    count = int(found["count"][i])
    tokens, start, end = (found[name][i][:count] for name in ("tokens", "start", "end"))
    return {
        "text": text_of(tokens, count, characters),
        "words": words(tokens, start, end, characters),
        "probability": number(found["probability"][i]),
    }
