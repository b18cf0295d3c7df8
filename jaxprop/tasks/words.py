"""What a person is told of a prediction, where a task has no words of its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOP = 3  # likeliest classes that an answer names
LIKELY = 0.5  # probability from which a label of a multi-label classification is told


def usual_words(found: Mapping[str, np.ndarray], i: int, info: Mapping[str, Any], *, top: int = TOP) -> dict[str, Any]:
    """Says one example's prediction in words and numbers.

    Args:
      found: predictions of a batch, `[N, ...]` each.
      i: the example.
      info: of the training data: `class_names`, `target_names`.
      top: likeliest classes to name.

    Returns:
      For a class: `label`, `probability` and, likeliest first, `top`. For several labels: `labels` and all
      `probabilities`. For numbers: each by the name of its target. Everything else as it is.

    Example:
      >>> found = {"class": np.array([1]), "probability": np.array([0.75]), "probabilities": np.array([[0.25, 0.75]])}
      >>> usual_words(found, 0, {"class_names": ["cat", "dog"]})
      {'label': 'dog', 'probability': 0.75, 'top': {'dog': 0.75, 'cat': 0.25}}
      >>> usual_words({"value": np.array([[1.5, 2.0]])}, 0, {"target_names": ["price", "weight"]})
      {'price': 1.5, 'weight': 2.0}
    """
    classes, targets = info.get("class_names") or (), info.get("target_names") or ()
    if "class" in found and "probabilities" in found:
        shares = found["probabilities"][i]
        order = np.argsort(-shares, kind="stable")[:top].tolist()
        said = {"label": class_name(classes, int(found["class"][i])), "probability": number(found["probability"][i])}
        return said | {"top": {str(class_name(classes, c)): number(shares[c]) for c in order}}
    if set(found) == {"probability"} and found["probability"].ndim == 2:
        shares = found["probability"][i]
        told = [class_name(classes, c) for c in np.flatnonzero(shares > LIKELY).tolist()]
        return {"labels": told, "probabilities": {str(class_name(classes, c)): number(p) for c, p in enumerate(shares)}}
    if set(found) == {"value"}:
        values = np.ravel(found["value"][i])
        names = list(targets) if len(targets) == len(values) else [f"value_{k}" for k in range(len(values))]
        names = ["value"] if len(values) == 1 and not targets else names
        return {name: number(value) for name, value in zip(names, values, strict=True)}
    return {name: _plain(values[i]) for name, values in found.items()}


def class_name(names: Sequence[str], index: int) -> str | int:
    """Returns the name of a class, or its number where it has none.

    Example:
      >>> class_name(["cat", "dog"], 1), class_name([], 1)
      ('dog', 1)
    """
    return names[index] if index < len(names) else index


def number(value: Any) -> float:
    """Returns a float32 with the digits that it has, so that 0.1 is not printed as 0.10000000149.

    Example:
      >>> number(np.float32(0.1))
      0.1
    """
    return float(f"{float(value):.7g}")


def _plain(value: Any) -> Any:
    value = np.asarray(value)
    if value.dtype.kind == "f":
        return [_plain(item) for item in value] if value.ndim else number(value)
    return value.tolist()
