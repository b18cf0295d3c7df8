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
from jaxprop.tools.retrain.doubts import BEYOND, Doubts, beyond
from jaxprop.tools.retrain.measure import Measured
from jaxprop.types import Source

NAME = "suspects.jsonl"
SHOWN = 10  # on the console and in the record
LEAST, MOST = 20, 1000  # lines of the file


class Found(NamedTuple):
    """Labels that look wrong.

    Args:
      share: estimated share of wrong labels among the new training examples; of boxes, share of images with one.
      usual: what the same estimate gives for the champion's own test examples: its errors pass for wrong labels.
      method: how the estimate is made.
      suspect: which of the examples that were looked at are counted in `share`, boolean `[n]`.
      order: of these, the suspects first, and among them and the others the largest loss first, int `[n]`.
      evidence: of each example what speaks against its label, where the method tells; None otherwise.
    """

    share: float
    usual: float
    method: str
    suspect: np.ndarray
    order: np.ndarray
    evidence: Sequence[Sequence[Mapping[str, Any]]] | None = None


def look(new: Measured, own: Measured, new_doubts: Doubts | None = None, own_doubts: Doubts | None = None) -> Found:
    """Ranks labels by the champion's loss, and estimates how many are wrong.

    Args:
      new: what the champion measured of the new training examples.
      own: of its own test examples.
      new_doubts, own_doubts: which labels of both its answers contradict; None to go by the losses alone.
    """
    losses = np.nan_to_num(new.losses, nan=np.inf)
    if new_doubts is None or own_doubts is None:
        share, which = beyond(losses, own.losses)
        return Found(share, beyond(own.losses, own.losses)[0], BEYOND, which, np.argsort(-losses, kind="stable"))
    which = new_doubts.which
    order = np.lexsort((-losses, ~which))  # by the last of its keys first
    share, usual = float(which.mean()), float(own_doubts.which.mean())
    return Found(share, usual, new_doubts.method, which, order, new_doubts.evidence)


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


def said_by(opened: Opened, predictor: Predictor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what a run says of the examples of a batch, as `predict` does.

    Args:
      opened: the run.
      predictor: of the run.
      batch: of any number of examples.
    """
    task, info = opened.experiment.task, opened.prepared.info
    found = predictor({name: values for name, values in batch.items() if name not in ("label_lengths",)})
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
    found: Found, measured: Measured, source: Source, opened: Opened, predictor: Predictor, otherwise: str
) -> list[dict[str, Any]]:
    """Returns the worst examples in their order: place, loss, given label, and what the champion says.

    Args:
      found: from `look`.
      measured: of the new training examples.
      source: the new training examples.
      opened: the champion.
      predictor: of the champion.
      otherwise: name of the source.
    """
    count, task = min(len(found.order), MOST, max(LEAST, int(found.suspect.sum()))), opened.config.task.name
    chosen = found.order[:count]
    indices = measured.indices[chosen]
    batch, names = source.take(indices), places(source, indices, otherwise)
    info = with_decoder(source)
    said = said_by(opened, predictor, {name: values[:SHOWN] for name, values in batch.items()})
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
            **({"contradicted": list(found.evidence[at])} if found.evidence is not None else {}),
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
    what = (
        "new training images have a box that looks wrong"
        if found.evidence is not None
        else ("new training examples look wrong")
    )
    head = (
        f"labels: about {found.share:.1%} of {len(found.order)} {what}"
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
    if line.get("contradicted"):
        return "; ".join(
            f"box {one['box']} given {one['given']!r}, champion: {one['champion']!r} ({one['score']:.3g})"
            for one in line["contradicted"]
        )
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
