"""Which labels of new data look wrong: ranked by the champion's loss, with an estimate of how many there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.data.alike import class_names
from jaxprop.metrics.error_rates import text_of
from jaxprop.run.folder import write_text
from jaxprop.run.opened import Opened
from jaxprop.run.predictor import Predictor
from jaxprop.sinks.jsonl import encode
from jaxprop.tasks.words import class_name, number
from jaxprop.tools.retrain.measure import Measured
from jaxprop.types import Source

NAME = "suspects.jsonl"
SHOWN = 10  # on the console and in the record
LEAST, MOST = 20, 1000  # lines of the file
QUANTILE = 0.99  # of the champion's losses on its own test examples
CONFIDENT = "confident learning (Northcutt et al. 2021)"
BEYOND = f"losses beyond the {QUANTILE:.0%} quantile of the champion's own test examples"


class Found(NamedTuple):
    """Labels that look wrong.

    Args:
      share: estimated share of wrong labels among the new training examples.
      usual: what the same estimate gives for the champion's own test examples: its errors pass for wrong labels.
      method: how the estimate is made.
      suspect: which of the examples that were looked at are counted in `share`, boolean `[n]`.
      order: of these, by their loss, the largest first, int `[n]`.
    """

    share: float
    usual: float
    method: str
    suspect: np.ndarray
    order: np.ndarray


def confident(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns which labels confident learning takes for wrong, boolean `[n]`.

    The threshold of a class is the mean probability that the model gives it over the examples with that label,

        t_j = mean_{i: y_i = j} p_ij

    and a label is taken for wrong where another class reaches its threshold, and has the largest probability of those
    that do. The model must not have been trained on these examples.

    Args:
      probabilities: p, of each class, `[n, C]`.
      labels: y, int `[n]`.

    Example:
      >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]])
      >>> confident(p, np.array([0, 0, 1, 1])).tolist()
      [False, False, False, True]

    Reference:
      Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.
    """
    classes = probabilities.shape[1]
    thresholds = np.full(classes, np.inf)  # a class without an example has none to reach
    for kind in np.unique(labels).tolist():
        thresholds[kind] = probabilities[labels == kind, kind].mean()
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    return (reached.max(1) >= 0) & (reached.argmax(1) != labels)


def beyond(losses: np.ndarray, own: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the share of losses that are larger than a model's usual ones, and which these are.

    With q the quantile of the usual losses and f the fraction of new ones beyond it, f - (1 - q) of q more than usual
    are beyond, and the estimate is that share: (f - (1 - q)) / q. It counts hard examples, too.

    Args:
      losses: of new examples, `[n]`.
      own: of examples like those that the model was trained on.

    Example:
      >>> share, which = beyond(np.array([0.1, 9.0]), np.linspace(0, 1, 100))
      >>> round(share, 2), which.tolist()
      (0.49, [False, True])
    """
    which = losses > np.quantile(own, QUANTILE)
    return max(0.0, (float(which.mean()) - (1 - QUANTILE)) / QUANTILE), which


def look(
    new: Measured, own: Measured, new_answers: tuple[np.ndarray, np.ndarray] | None = None,
    own_answers: tuple[np.ndarray, np.ndarray] | None = None,
) -> Found:  # fmt: skip
    """Ranks labels by the champion's loss, and estimates how many are wrong.

    Args:
      new: what the champion measured of the new training examples.
      own: of its own test examples.
      new_answers, own_answers: where examples have one class each, the champion's probabilities `[n, C]` and the labels
        `[n]` of both.
    """
    order = np.argsort(-np.nan_to_num(new.losses, nan=np.inf), kind="stable")
    if new_answers is None or own_answers is None:
        share, which = beyond(new.losses, own.losses)
        return Found(share, beyond(own.losses, own.losses)[0], BEYOND, which, order)
    which, usual = confident(*new_answers), confident(*own_answers)
    return Found(float(which.mean()), float(usual.mean()), CONFIDENT, which, order)


# -- for a person ---------------------------------------------------------------------------------


def given_of(batch: Mapping[str, Any], i: int, info: Mapping[str, Any], task: str) -> Any:
    """Returns the label that an example was given, as a person reads it.

    Args:
      batch: with the labels.
      i: the example.
      info: of the source: its names; `decode`, tokens -> text, where labels are tokens of text.
      task: the task's name.

    Example:
      >>> given_of({"labels": np.array([1])}, 0, {"class_names": ["cat", "dog"]}, "classify")
      'dog'
    """
    labels, names = np.asarray(batch["labels"][i]), info.get("class_names") or ()
    if task == "detect":
        kinds = labels[np.asarray(batch["mask"][i]) != 0].tolist()
        return [class_name(names, kind) for kind in kinds]
    if task == "transcribe" and info.get("characters"):
        return text_of(labels, int(batch["label_lengths"][i]), info["characters"])
    if task == "multilabel":
        return [class_name(names, kind) for kind in np.flatnonzero(labels > 0.5).tolist()]
    if task == "regress":
        scale = np.asarray(info.get("target_scale") or [[0.0, 1.0]])
        return [number(value) for value in np.ravel(labels) * scale[:, 1] + scale[:, 0]]
    if "decode" in info:
        return _decoded(labels, batch.get("mask"), i, info)
    return class_name(names, int(labels)) if not labels.ndim else None


def asked_of(batch: Mapping[str, Any], i: int, info: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Returns what an example asks for where its label says nothing without it: the source of a translation.

    Args:
      batch, i, info, task: as of `given_of`.

    Example:
      >>> asked_of({"inputs": np.array([[5, 6, 9]])}, 0, {"decode": str, "end": 9}, "translate")
      {'source': '[5, 6]'}
    """
    if task != "translate" or "decode" not in info:
        return {}
    return {"source": _decoded(np.asarray(batch["inputs"][i]), batch.get("input_mask"), i, info)}


def _decoded(tokens: np.ndarray, mask: Any, i: int, info: Mapping[str, Any]) -> str:
    kept = tokens if mask is None else tokens[np.asarray(mask[i]) != 0]
    return str(info["decode"]([int(token) for token in kept if int(token) != info.get("end")]))


def said_by(opened: Opened, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what a run says of the examples of a batch, as `predict` does.

    Args:
      opened: the run.
      batch: of any number of examples.
    """
    task, info = opened.experiment.task, opened.prepared.info
    found = Predictor(opened)({name: values for name, values in batch.items() if name not in ("label_lengths",)})
    return [task.describe(found, i, info) for i in range(len(jax.tree.leaves(found)[0]))]


def places(source: Source, indices: np.ndarray, otherwise: str) -> list[str]:
    """Returns what examples of a source are called.

    Args:
      source: the examples.
      indices: of those asked for.
      otherwise: name of the source, for examples that have none.
    """
    if source.names is None:
        return [f"{otherwise}[{i}]" for i in indices.tolist()]
    return source.names(indices)


def lines(
    found: Found, measured: Measured, source: Source, opened: Opened, task: str, otherwise: str
) -> list[dict[str, Any]]:
    """Returns the worst examples, the largest loss first: place, loss, given label, and what the champion says.

    Args:
      found: from `look`.
      measured: of the new training examples.
      source: the new training examples.
      opened: the champion.
      task: the task's name.
      otherwise: name of the source.
    """
    count = min(len(found.order), MOST, max(LEAST, int(found.suspect.sum())))
    chosen = found.order[:count]
    indices = measured.indices[chosen]
    batch, names = source.take(indices), places(source, indices, otherwise)
    info = with_decoder(source)
    said = said_by(opened, {name: values[:SHOWN] for name, values in batch.items()})
    return [
        {
            "rank": rank + 1,
            "name": names[rank],
            "index": int(indices[rank]),
            "loss": number(measured.losses[at]),
            **asked_of(batch, rank, info, task),
            "given": given_of(batch, rank, info, task),
            **({"champion": said[rank]} if rank < SHOWN else {}),
            "suspect": bool(found.suspect[at]),
        }
        for rank, at in enumerate(chosen.tolist())
    ]


def with_decoder(source: Source) -> dict[str, Any]:
    """Returns what is known of a source, with a function from tokens to text where its labels are text."""
    stored = source.prepared.get("tokenizer")
    if stored is None or class_names(source.info, "classify"):
        return dict(source.info)
    from jaxprop.data.tokenizers import restore

    return {**source.info, "decode": restore(stored).decode}


def write(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes the lines to `suspects.jsonl` in a folder."""
    write_text(folder / NAME, "".join(encode(dict(line)) + "\n" for line in found))


def summary(found: Found, worst: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the estimate and the worst labels as lines of text; one label where none looks wrong.

    Args:
      found: from `look`.
      worst: from `lines`.
    """
    head = (
        f"labels: about {found.share:.1%} of {len(found.order)} new training examples look wrong"
        f"{', or unlike what the champion knows,' if found.method == BEYOND else ''} by {found.method}; "
        f"for the champion's own test examples the same estimate is {found.usual:.1%}"
    )
    shown = worst[: min(SHOWN, max(1, int(found.suspect.sum())))]
    return [head, *(f"  {line['rank']:>3}  {line['name']}  loss {line['loss']:.3g}  {told(line)}" for line in shown)]


def told(line: Mapping[str, Any]) -> str:
    """Returns what a line says of its label, short.

    Example:
      >>> told({"given": "cat", "champion": {"label": "dog", "probability": 0.9}})
      "given 'cat', champion: label 'dog', probability 0.9"
    """
    said = line.get("champion") or {}
    parts = [
        f"{key} {_short(value)}"
        for key, value in said.items()
        if key not in ("top", "words", "probabilities", "tokens")
    ]
    source = f"{line['source']!r} " if "source" in line else ""
    return f"{source}given {line['given']!r}, champion: {', '.join(parts)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return json.dumps(value) if isinstance(value, list | dict) else repr(value)
