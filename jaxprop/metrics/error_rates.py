"""Word and character error rate of transcripts, as jiwer counts them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    def texts(rows: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
        said = [text_of(*pair, characters) for pair in zip(rows["said"], rows["said_count"], strict=True)]
        return [text_of(*pair, characters) for pair in zip(rows["labels"], rows["label_lengths"], strict=True)], said

    def weighted(rows: dict[str, np.ndarray]) -> Callable[[np.ndarray], dict[str, float]]:
        each = errors(*texts(rows))
        return lambda weights: rates_of_errors({name: weights @ found for name, found in each.items()})

    return Metric(update, lambda rows: rates(*texts(rows)), weighted)


def rates(references: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """Returns `wer` and `cer` of transcripts; NaN where the references hold nothing.

    Raises:
      MissingExtraError: jiwer is not installed.
    """
    need_jiwer()
    import jiwer

    if not any(references):
        return {"wer": float("nan"), "cer": float("nan")}
    return {
        "wer": float(jiwer.wer(list(references), list(said))),
        "cer": float(jiwer.cer(list(references), list(said))),
    }


def errors(references: Sequence[str], said: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the errors and the length of each transcript, in words (`wer`) and in characters (`cer`), `[N, 2]` each.

    Raises:
      MissingExtraError: jiwer is not installed.

    Example:
      >>> found = errors(["a b", "c"], ["a", "c"])
      >>> found["wer"].tolist(), rates_of_errors({name: rows.sum(0) for name, rows in found.items()})["wer"]
      ([[1.0, 2.0], [0.0, 1.0]], 0.3333333333333333)
    """
    need_jiwer()
    import jiwer

    def of(measure: Callable[..., Any], one: str, other: str, length: int) -> tuple[float, float]:
        if not one:  # of which jiwer gives no rate
            return float(len(other.split()) if measure is jiwer.wer else len(other)), 0.0
        return round(float(measure(one, other)) * length), float(length)

    pairs = list(zip(references, said, strict=True))
    return {
        "wer": np.array([of(jiwer.wer, one, other, len(one.split())) for one, other in pairs]).reshape(-1, 2),
        "cer": np.array([of(jiwer.cer, one, other, len(one)) for one, other in pairs]).reshape(-1, 2),
    }


def rates_of_errors(total: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns `wer` and `cer` of errors and lengths that were added up over transcripts; NaN of no length."""
    return {name: float(wrong / length) if length else float("nan") for name, (wrong, length) in total.items()}


def need_jiwer() -> None:
    """Raises MissingExtraError where jiwer is not installed."""
    if find_spec("jiwer") is None:
        raise MissingExtraError("jiwer", "the word error rate")
