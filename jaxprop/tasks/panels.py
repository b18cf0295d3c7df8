"""What a report shows of a task's predictions: small drawables, made of predictions and batch on the host. Pure.

A panel is a function `(predictions, batch) -> Drawable` of arrays with one entry an example, padding left out. The
report draws a drawable by its kind, whatever the task:

| kind | data |
|---|---|
| `matrix` | `rows`, `columns`: what they are; `names` of the classes; `cells`: counts |
| `scatter` | `x`, `y`: what they are; `points`: pairs |
| `shades` | `rows`, `columns`: what they are; `row_names`, `column_names`; `cells`: numbers of 0 to 1 |
| `table` | `headers` and `rows` of text and numbers |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.metrics.translation import sentence_chrf
from jaxprop.types import Batch

CLASSES = 40  # largest number of classes with a matrix
POINTS = 400  # points of a scatter plot
WORST = 8  # rows of a table of examples
SAMPLES, WINDOW = 4, 48  # samples of a text, and their bytes

Predictions = Mapping[str, np.ndarray]


class Drawable(NamedTuple):
    """A picture as data.

    Args:
      title: what it shows.
      kind: `matrix`, `scatter`, `shades` or `table`.
      data: JSON values by name, as the kind has them.
      hint: one sentence on how to read it.
    """

    title: str
    kind: str
    data: dict[str, Any]
    hint: str = ""


Panel = Callable[[Predictions, Batch], Drawable]


def confusion(predictions: Predictions, batch: Batch, names: Sequence[str] = ()) -> Drawable:
    """Counts examples by their label and their predicted class; the classes that are confused most, where many are.

    Args:
      predictions: of the task `classify`.
      batch: with `labels` `[n]`.
      names: of the classes; without any they are told by number.

    Example:
      >>> found = confusion({"class": np.array([0, 1, 1])}, {"labels": np.array([0, 1, 0])})
      >>> found.data["names"], found.data["cells"]
      (['0', '1'], [[1, 1], [0, 1]])
    """
    labels, predicted = np.asarray(batch["labels"]).astype(int), np.asarray(predictions["class"]).astype(int)
    wrong = labels != predicted
    classes = np.unique(np.concatenate([labels, predicted]))
    if len(classes) > CLASSES:
        mistakes = {c: int(np.sum(wrong & ((labels == c) | (predicted == c)))) for c in classes.tolist()}
        classes = np.array(sorted(sorted(mistakes, key=lambda c: -mistakes[c])[:CLASSES]))
    at = {c: i for i, c in enumerate(classes.tolist())}
    cells = np.zeros((len(classes), len(classes)), int)
    for label, answer in zip(labels.tolist(), predicted.tolist(), strict=True):
        if label in at and answer in at:
            cells[at[label], at[answer]] += 1
    data = {
        "rows": "label",
        "columns": "predicted",
        "names": [_name(c, names) for c in classes],
        "cells": cells.tolist(),
    }
    return Drawable("Confusion matrix", "matrix", data, "What is right lies on the diagonal.")


def surest_mistakes(predictions: Predictions, batch: Batch, names: Sequence[str] = ()) -> Drawable:
    """Lists wrong answers with the highest probability: mislabelled examples are often among them.

    Example:
      >>> found = surest_mistakes({"class": np.array([1]), "probability": np.array([0.9])}, {"labels": np.array([0])})
      >>> found.data["rows"]
      [[0, 0, 1, 0.9]]
    """
    labels, predicted, share = batch["labels"], predictions["class"], predictions["probability"]
    wrong = np.flatnonzero(np.asarray(labels) != np.asarray(predicted))
    worst = wrong[np.argsort(-np.asarray(share)[wrong], kind="stable")][:WORST]
    told = [[_name(int(of[i]), names) if names else int(of[i]) for of in (labels, predicted)] for i in worst]
    rows = [[int(i), *pair, round(float(share[i]), 4)] for i, pair in zip(worst, told, strict=True)]
    headers = ["example", "label", "predicted", "probability"]
    return Drawable("Surest mistakes", "table", {"headers": headers, "rows": rows}, "Look here for wrong labels first.")


def labels_told(predictions: Predictions, batch: Batch) -> Drawable:
    """Lists precision and recall of every label, at a probability of 0.5; those of the lowest recall where many are.

    Example:
      >>> shares = {"probability": np.array([[0.9], [0.8], [0.1]])}
      >>> labels_told(shares, {"labels": np.array([[1.0], [0.0], [1.0]])}).data["rows"]
      [[0, 2, 2, 0.5, 0.5]]
    """
    labels, told = np.asarray(batch["labels"]) > 0.5, np.asarray(predictions["probability"]) > 0.5
    right, had, said = (labels & told).sum(0), labels.sum(0), told.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / said, right / had
    order = np.argsort(np.nan_to_num(recall, nan=1.0), kind="stable")[:CLASSES]
    rows = [[int(k), int(had[k]), int(said[k]), _share(precision[k]), _share(recall[k])] for k in sorted(order)]
    headers = ["label", "examples with it", "told", "precision", "recall"]
    return Drawable("Labels", "table", {"headers": headers, "rows": rows}, "At a probability of 0.5.")


def predicted_and_true(predictions: Predictions, batch: Batch) -> Drawable:
    """Pairs of the true and the predicted value of the first target, evenly spaced over the examples.

    Example:
      >>> predicted_and_true({"value": np.array([[2.0]])}, {"labels": np.array([3.0])}).data["points"]
      [[3.0, 2.0]]
    """
    truth, value = _targets(predictions, batch)
    some = np.unique(np.linspace(0, len(truth) - 1, min(POINTS, len(truth))).astype(int)).tolist()
    points = [[float(truth[i, 0]), float(value[i, 0])] for i in some if np.isfinite([truth[i, 0], value[i, 0]]).all()]
    title = "Predicted and true value" + (" of target 0" if truth.shape[1] > 1 else "")
    data = {"x": "true", "y": "predicted", "points": points}
    return Drawable(title, "scatter", data, "A perfect model's points lie on the line.")


def largest_errors(predictions: Predictions, batch: Batch) -> Drawable:
    """Lists the examples and targets with the largest error.

    Example:
      >>> largest_errors({"value": np.array([[2.0], [5.0]])}, {"labels": np.array([3.0, 0.0])}).data["rows"]
      [[1, 0, 0.0, 5.0], [0, 0, 3.0, 2.0]]
    """
    truth, value = _targets(predictions, batch)
    error = np.nan_to_num(np.abs(value - truth), nan=np.inf)
    worst = np.argsort(-error, axis=None, kind="stable")[:WORST]
    places = [np.unravel_index(int(i), error.shape) for i in worst]
    rows = [[int(i), int(k), float(truth[i, k]), float(value[i, k])] for i, k in places]
    headers = ["example", "target", "true", "predicted"]
    return Drawable("Largest errors", "table", {"headers": headers, "rows": rows})


def sample_text(predictions: Predictions, batch: Batch, decode: Callable[[list[int]], str] | None = None) -> Drawable:
    """Shows the ends of a few texts, and the token that is predicted next at each place.

    Args:
      predictions: `token` `[n, T]`.
      batch: `labels` `[n, T]`.
      decode: tokens -> text; None for tokens that are bytes.

    Example:
      >>> texts = {"labels": np.array([[104, 105]])}
      >>> sample_text({"token": np.array([[104, 111]])}, texts).data["rows"]
      [['next byte', 'hi'], ['predicted', 'ho']]
    """
    labels, told = np.asarray(batch["labels"]), np.asarray(predictions["token"])
    mask = np.ones(labels.shape, bool) if batch.get("mask") is None else np.asarray(batch["mask"]) != 0
    unit = "byte" if decode is None else "token"
    shown = _bytes if decode is None else lambda tokens: _apart(tokens, decode)
    rows = []
    for text, answer, held in list(zip(labels, told, mask, strict=True))[:SAMPLES]:
        rows += [[f"next {unit}", shown(text[held][-WINDOW:])], ["predicted", shown(answer[held][-WINDOW:])]]
    data = {"headers": ["", "text"], "rows": rows}
    return Drawable(f"Next {unit}s", "table", data, f"Each prediction has seen all {unit}s before it.")


def worst_translations(predictions: Predictions, batch: Batch, text: Callable[[np.ndarray], str]) -> Drawable:
    """Lists translations with what is right, those of the lowest chrF first.

    Args:
      predictions: `tokens` `[n, T]`, `inputs` and `input_mask` `[n, S]`.
      batch: `labels` and `mask` `[n, T]`.
      text: tokens up to the one for the end, or to the last -> text.
    """
    found = _translations(predictions, batch, text)
    order = np.argsort([score for *_, score in found], kind="stable")[:WORST].tolist()
    rows = [[*found[i][:3], round(found[i][3], 1)] for i in order]
    hint = "Scores are chrF, from 0 to 100. Where the worst have 100, all are right."
    headers = ["source", "target", "translation", "chrF"]
    return Drawable("Worst translations", "table", {"headers": headers, "rows": rows}, hint)


def attention_of_worst(predictions: Predictions, batch: Batch, text: Callable[[np.ndarray], str]) -> Drawable:
    """Shows what each token of the worst translation attends to in its source.

    Args:
      predictions: as of `worst_translations`, and `attention` `[n, T, S]`.
      batch: as of `worst_translations`.
      text: as of `worst_translations`; of one token it is the token's.
    """
    title, hint = "Attention of the worst translation", "Each row is a token that was written; its shares add up to 1."
    axes = {"rows": "written", "columns": "source"}
    if "attention" not in predictions:
        return Drawable(title, "shades", {**axes, "row_names": [], "column_names": [], "cells": []}, hint)
    worst = int(np.argmin([score for *_, score in _translations(predictions, batch, text)]))
    mask = np.asarray(predictions["input_mask"])[worst] != 0
    inputs, tokens = np.asarray(predictions["inputs"])[worst][mask], np.asarray(predictions["tokens"])[worst]
    written = [_printed(text(token[None])) for token in tokens]
    length = next((i for i, name in enumerate(written) if not name), len(written))
    shares = np.asarray(predictions["attention"], np.float64)[worst][: length + 1, mask]
    rows = [*written[:length], "end"][: len(shares)]
    columns = [_printed(text(token[None])) for token in inputs]
    cells = [[_share(x) for x in row] for row in shares]
    return Drawable(title, "shades", {**axes, "row_names": rows, "column_names": columns, "cells": cells}, hint)


def _translations(
    predictions: Predictions, batch: Batch, text: Callable[[np.ndarray], str]
) -> list[tuple[str, str, str, float]]:
    """Source, target, translation and chrF of each example."""
    labels, held = np.asarray(batch["labels"]), batch.get("mask")
    held = np.ones(labels.shape, bool) if held is None else np.asarray(held) != 0
    found = []
    for i, tokens in enumerate(np.asarray(predictions["tokens"])):
        read = np.asarray(predictions["inputs"])[i][np.asarray(predictions["input_mask"])[i] != 0]
        source, target, translation = text(read), text(labels[i][held[i]]), text(tokens)
        found.append((source, target, translation, sentence_chrf(translation, target)))
    return found


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else str(index)  # a loss of the user's own may have more outputs


def _bytes(tokens: np.ndarray) -> str:
    return "".join(chr(t) if 32 <= t < 127 else "\N{MIDDLE DOT}" for t in tokens.astype(int).tolist())


def _apart(tokens: np.ndarray, decode: Callable[[list[int]], str]) -> str:
    return "|".join(_printed(decode([token])) for token in tokens.astype(int).tolist())


def _printed(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)


def _targets(predictions: Predictions, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions `[n, K]`."""
    value = np.asarray(predictions["value"], np.float64)
    value = value.reshape(len(value), math.prod(value.shape[1:]))
    return np.asarray(batch["labels"], np.float64).reshape(value.shape), value


def _share(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
