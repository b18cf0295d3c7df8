"""What a report shows of transcripts: spectrograms with the words at their times, the worst first. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprop.metrics.error_rates import text_of
from jaxprop.models.log_mel import Mel, log_mel
from jaxprop.tasks.panels import Drawable, Predictions
from jaxprop.types import Batch

SHOWN = ("inputs", "input_lengths", "label_lengths")  # of a batch, beside its labels
WORST = 6
_COLUMNS = 400  # of a spectrogram, at most
_LOW, _HIGH = -2.0, 3.0  # of standardized features, from black to white


def worst_transcripts(predictions: Predictions, batch: Batch, *, characters: Sequence[str], rate: int) -> Drawable:
    """Draws the recordings with the most word errors: spectrogram, words at their times, and both transcripts.

    Args:
      predictions: of the task `transcribe`.
      batch: with `labels`, and the arrays that `SHOWN` names.
      characters: of the tokens 1, 2, ...
      rate: samples a second.
    """
    said = [text_of(*pair, characters) for pair in zip(predictions["tokens"], predictions["count"], strict=True)]
    labels = [text_of(*pair, characters) for pair in zip(batch["labels"], batch["label_lengths"], strict=True)]
    errors = [edits(a.split(), b.split()) for a, b in zip(labels, said, strict=True)]
    shares = [count / max(len(label.split()), 1) for count, label in zip(errors, labels, strict=True)]
    worst = sorted(range(len(said)), key=lambda i: -shares[i])[:WORST]
    examples = []
    for i in worst:
        count = int(predictions["count"][i])
        tokens, start, end = (predictions[name][i][:count] for name in ("tokens", "start", "end"))
        examples.append({
            "example": i, "reference": labels[i], "said": said[i], "errors": errors[i],
            "words": _placed(tokens, start, end, characters),
            "reference_words": _reference(predictions, batch, i, characters),
            **_picture(np.asarray(batch["inputs"][i]), int(batch["input_lengths"][i]), rate),
        })  # fmt: skip
    hint = (
        "The most word errors for their length first. Above, the words of the transcript where they fit best; below, "
        "those that were read, where they were read."
    )
    return Drawable("Worst transcripts", "transcripts", {"examples": examples}, hint)


def words(tokens: Any, start: Any, end: Any, characters: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the words of one recording with their times in seconds.

    Args:
      tokens: int `[n]`.
      start, end: of each token, in seconds `[n]`.
      characters: of the tokens 1, 2, ...

    Example:
      >>> words([1, 2, 3, 1], [0.1, 0.2, 0.3, 0.4], [0.15, 0.25, 0.35, 0.5], ["a", "b", " "])
      [{'word': 'ab', 'start': 0.1, 'end': 0.25}, {'word': 'a', 'start': 0.4, 'end': 0.5}]
    """
    found: list[dict[str, Any]] = []
    inside = False
    for token, first, last in zip(tokens, start, end, strict=True):
        character = characters[int(token) - 1]
        if character.isspace():
            inside = False
            continue
        if not inside:
            found.append({"word": "", "start": round(float(first), 3)})
            inside = True
        found[-1]["word"] += character
        found[-1]["end"] = round(float(last), 3)
    return found


def edits(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Returns the smallest number of insertions, deletions and substitutions that make one sequence of another.

    Example:
      >>> edits("kitten", "sitting")
      3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def _placed(tokens: Any, start: Any, end: Any, characters: Sequence[str]) -> list[list[Any]]:
    return [[one["word"], one["start"], one["end"]] for one in words(tokens, start, end, characters)]


def _reference(predictions: Predictions, batch: Batch, i: int, characters: Sequence[str]) -> list[list[Any]]:
    """The words of the transcript where they fit best; none where it cannot be aligned."""
    count = int(batch["label_lengths"][i])
    end = predictions.get("label_end", np.zeros((i + 1, 1)))[i]
    if not end.any():
        return []
    return _placed(batch["labels"][i][:count], predictions["label_start"][i][:count], end[:count], characters)


def _picture(samples: np.ndarray, length: int, rate: int) -> dict[str, Any]:
    """A spectrogram as bytes in base64, row by row from the highest band, and its duration."""
    hop = max(rate // 100, -(-length // _COLUMNS))
    mel = Mel(rate, 2 * hop if hop > rate // 100 else rate // 40, hop, 40)
    wave = samples[: max(length, mel.window)]
    features, _ = log_mel(jnp.asarray(wave[None]), jnp.asarray([len(wave)]), mel)
    scaled = (np.asarray(features[0], np.float32) - _LOW) / (_HIGH - _LOW)
    pixels = np.round(np.clip(scaled.T[::-1], 0, 1) * 255).astype(np.uint8)
    return {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
        "seconds": length / rate,
    }
