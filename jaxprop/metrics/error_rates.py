"""Word and character error rate of transcripts, as jiwer counts them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.ctc import Decoded
from jaxprop.errors import MissingExtraError
from jaxprop.types import Batch, Metric, Rows


def text_of(tokens: np.ndarray, count: int, characters: Sequence[str]) -> str:
    """Returns the text of tokens, `characters[k - 1]` for token k; several spaces are one, and none is at an end.

    Example:
      >>> text_of(np.array([1, 3, 3, 2, 0]), 4, ["a", "b", " "])
      'a b'
    """
    return " ".join("".join(characters[k - 1] for k in tokens[:count].tolist() if k > 0).split())


def error_rates(characters: Sequence[str], decode: Callable[[jax.Array, jax.Array], Decoded]) -> Metric:
    """Returns the metric of transcripts: `wer` and `cer`, errors over words and characters of the references.

        WER = (substitutions + deletions + insertions) / words of the references

    Both are of a whole split: errors and lengths are added up before they are divided.

    Args:
      characters: of the tokens 1, 2, ...
      decode: `(log_probs [B, T, V], lengths [B]) -> Decoded`, run on the device.

    Example:
      >>> from jaxprop.core.ctc import greedy
      >>> metric = error_rates(["a", " "], greedy)
      >>> outputs = {"logits": 9.0 * jax.nn.one_hot(jnp.array([[1, 2, 1]]), 3), "lengths": jnp.array([3])}
      >>> batch = {"labels": jnp.array([[1, 1]]), "label_lengths": jnp.array([2])}
      >>> rows = metric.update(outputs, batch)
      >>> rows.values["said"].tolist()
      [[1, 2, 1]]

    Reference:
      https://github.com/jitsi/jiwer
    """

    def update(outputs: Any, batch: Batch) -> Rows:
        log_probs = jax.nn.log_softmax(outputs["logits"].astype(jnp.float32), -1)
        found = decode(log_probs, outputs["lengths"])
        values = {"said": found.tokens, "said_count": found.size}
        values |= {"labels": jnp.asarray(batch["labels"]), "label_lengths": jnp.asarray(batch["label_lengths"])}
        return Rows(values, batch.get("weight"))

    def finish(rows: dict[str, np.ndarray]) -> dict[str, float]:
        said = [text_of(*pair, characters) for pair in zip(rows["said"], rows["said_count"], strict=True)]
        labels = [text_of(*pair, characters) for pair in zip(rows["labels"], rows["label_lengths"], strict=True)]
        return rates(labels, said)

    return Metric(update, finish)


def rates(references: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """Returns `wer` and `cer` of transcripts; NaN where the references hold nothing.

    Raises:
      MissingExtraError: jiwer is not installed.
    """
    if find_spec("jiwer") is None:
        raise MissingExtraError("jiwer", "the word error rate")
    import jiwer

    if not any(references):
        return {"wer": float("nan"), "cer": float("nan")}
    return {
        "wer": float(jiwer.wer(list(references), list(said))),
        "cer": float(jiwer.cer(list(references), list(said))),
    }
