"""Checks of arrays before the first step, each with one sentence that says where and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.readers.numpy_files import Named
from jaxprop.errors import DataError

NUMBERS = "biuf"  # dtype kinds: bool, signed, unsigned, floating
_INTEGERS = "iu"
_INT32_MAX = 2**31 - 1
MOST_INFERRED, INFERRED_EACH = 10_000, 10  # classes that the largest label alone may stand for, and times those seen
# Values checked at a time, so that a memory-mapped file larger than memory can be checked.
CHECK_VALUES = 2**20
REQUIRED, OPTIONAL = ("inputs", "labels"), ("weight", "mask")  # the arrays of a .npz that are used


class Split(NamedTuple):
    """The arrays of one split.

    Args:
      inputs: `[N, ...]`.
      labels: `[N]` or `[N, K]`.
      weight: how much each example counts, `[N]`.
      mask: 0 where a label counts for nothing.
      unused: names of other arrays of the same file.
    """

    inputs: Named
    labels: Named
    weight: Named | None = None
    mask: Named | None = None
    unused: tuple[str, ...] = ()


def check_split(split: Split, task: str) -> Split:
    """Checks one split by itself; returns it with zeros for the labels that count for nothing.

    Args:
      split: the arrays.
      task: its name, on which the labels depend.

    Raises:
      DataError: the arrays do not fit each other or the task.
    """
    _check_examples(split)
    _check_weights(split)
    split = _without_masked_labels(split)
    _LABEL_CHECKS[task](split.labels)
    return split


def _check_examples(split: Split) -> None:
    for name, values in split[:2]:
        if values.dtype.kind not in NUMBERS:
            raise DataError(f"{name}: expected real numbers, got dtype {values.dtype}; save it as float32 or integers")
        if values.size == 0:
            raise DataError(f"{name}: is empty (shape {values.shape}); expected at least one example")
        if values.ndim == 0:
            raise DataError(f"{name}: expected one example for each entry of the first axis, got a single number")
    inputs, labels = split[:2]
    if len(inputs.values) != len(labels.values):
        raise DataError(
            f"{inputs.name} has {len(inputs.values)} examples but {labels.name} has {len(labels.values)}; "
            "the first axes must agree"
        )
    check_finite(inputs)


def _check_weights(split: Split) -> None:
    """Weights and masks: of the right shape, finite, not negative, and not all zero."""
    labels = split.labels.values
    for array, shapes in ((split.weight, [labels.shape[:1]]), (split.mask, _mask_shapes(split))):
        if array is None:
            continue
        name, values = array
        if values.dtype.kind not in NUMBERS:
            raise DataError(f"{name}: expected real numbers, got dtype {values.dtype}; save it as float32")
        if values.shape not in shapes:
            wanted = " or ".join(dict.fromkeys(map(str, shapes)))
            raise DataError(f"{name}: expected shape {wanted} for labels of shape {labels.shape}, got {values.shape}")
        check_finite(array)
        at = _first(values, lambda chunk: chunk < 0)
        if at is not None:
            raise DataError(f"{_item(name, at)} is {values[at]}, but what an example counts is never negative")
        if not values.any():
            raise DataError(f"{name}: is zero everywhere, so that no example counts; leave it out")


def _mask_shapes(split: Split) -> list[tuple[int, ...]]:
    inputs, labels = split.inputs.values, split.labels.values
    of_labels = [labels.shape[:1], labels.shape]
    if inputs.dtype.kind not in _INTEGERS or inputs.ndim != 2:
        return of_labels
    if split.mask is not None and split.mask.values.shape == inputs.shape == labels.shape:
        raise DataError(
            f"{split.mask.name}: it has the shape of both inputs and labels, {inputs.shape}, so that it could be "
            "a mask of either; save inputs that are no tokens as float32, or pad tokens to another length"
        )
    return [*of_labels, inputs.shape]


def _is_of_tokens(array: Named, split: Split) -> bool:
    """Whether a mask says which tokens of the inputs are real, rather than which labels count."""
    inputs = split.inputs.values
    return inputs.ndim == 2 and array.values.shape == inputs.shape != split.labels.values.shape


def _without_masked_labels(split: Split) -> Split:
    """Labels that count for nothing hold anything, such as -100; they become 0, which every task takes."""
    name, values = split.labels
    counts = np.ones(values.shape, bool)
    for array in (split.weight, split.mask):
        if array is not None:
            held = array.values != 0
            if _is_of_tokens(array, split):
                held = held.any(1)
            counts &= held.reshape(held.shape + (1,) * (values.ndim - held.ndim))
    return split if counts.all() else split._replace(labels=Named(name, np.where(counts, values, values.dtype.type(0))))


def check_finite(array: Named) -> None:
    """Raises DataError where a value is not a finite float32."""
    name, values = array
    if values.dtype.kind != "f":
        return

    at = _first(values, _not_finite)
    if at is not None:
        raise DataError(
            f"{_item(name, at)} is {values[at]}, which is not a finite float32; drop or repair that example"
        )


def _not_finite(chunk: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ~np.isfinite(chunk.astype(np.float32, copy=False))


def bad_examples(values: np.ndarray, vocabulary: int | None = None) -> Iterator[tuple[int, str]]:
    """Yields the examples that cannot be predicted, each with what is wrong with it.

    Args:
      values: `[N, ...]`, numbers.
      vocabulary: number of tokens, where values are such.

    Example:
      >>> list(bad_examples(np.array([[1.0, 2.0], [3.0, np.nan]])))
      [(1, 'its value at [1] is nan, which is not a finite float32')]
    """
    if vocabulary is not None:
        is_bad, why = _outside(vocabulary), f"outside the vocabulary 0..{vocabulary - 1} of the run"
    elif values.dtype.kind == "f":
        is_bad, why = _not_finite, "which is not a finite float32"
    else:
        return
    for start, chunk in _chunks(values):
        found = is_bad(chunk)
        for row in np.flatnonzero(found.reshape(len(chunk), -1).any(1)).tolist():
            at = tuple(int(i) for i in np.unravel_index(int(found[row].argmax()), found[row].shape))
            where = f"its value at {list(at)}" if at else "it"
            yield start + row, f"{where} is {chunk[row][at]}, {why}"


def _outside(vocabulary: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda chunk: (chunk < 0) | (chunk >= vocabulary)


def _check_class_labels(labels: Named) -> None:
    name, values = labels
    if values.ndim != 1:
        fix = "labels.argmax(-1) for one-hot rows, labels.reshape(-1) for a column"
        raise DataError(
            f"{name}: expected one integer for each example, shape [N], got shape {values.shape}; save {fix}"
        )
    if values.dtype.kind not in _INTEGERS:
        raise DataError(
            f"{name}: expected integer classes, got dtype {values.dtype}; "
            "save labels.astype(np.int32), or set task.name: regress"
        )
    at = _first(values, lambda chunk: chunk < 0)
    if at is not None:
        raise DataError(f"{_item(name, at)} is {values[at]}, but classes count from 0; correct or drop that example")


def _check_multilabel(labels: Named) -> None:
    name, values = labels
    if values.ndim != 2:
        raise DataError(f"{name}: expected zeros and ones of shape [N, K], got shape {values.shape}")
    at = _first(values, lambda chunk: (chunk != 0) & (chunk != 1))
    if at is not None:
        raise DataError(f"{_item(name, at)} is {values[at]}, expected 0 or 1; correct it, or set task.name: regress")


def _check_targets(labels: Named) -> None:
    name, values = labels
    if values.ndim > 2:
        raise DataError(
            f"{name}: expected targets of shape [N] or [N, K], got {values.shape}; save labels.reshape(len(labels), -1)"
        )
    check_finite(labels)


_LABEL_CHECKS: dict[str, Callable[[Named], None]] = {
    "classify": _check_class_labels,
    "multilabel": _check_multilabel,
    "regress": _check_targets,
}


def check_fits(split: Split, learned: Mapping[str, Any], train: Split | None) -> None:
    """Examples have the shape of the training examples, and tokens are of their vocabulary."""
    for key, (name, values) in zip(REQUIRED, split[:2], strict=True):
        wanted = tuple(learned["shapes"][key])
        if values.shape[1:] != wanted:
            of = (
                "the run was trained on examples"
                if train is None
                else (train.inputs if key == "inputs" else train.labels).name
            )
            raise DataError(
                f"{name} holds examples of shape {values.shape[1:]}, but {of} of shape {wanted}; "
                "train and test must agree"
            )
    if "vocabulary" in learned:
        check_tokens(split.inputs, learned["vocabulary"])


def check_tokens(inputs: Named, vocabulary: int) -> None:
    """Raises DataError where a token is outside a vocabulary."""
    name, values = inputs
    check_integers(inputs)
    at = _first(values, _outside(vocabulary))
    if at is not None:
        raise DataError(f"{_item(name, at)} is {values[at]}, outside the vocabulary 0..{vocabulary - 1} of the run")


def check_integers(inputs: Named) -> None:
    """Raises DataError where inputs are not integers, which tokens are."""
    if inputs.values.dtype.kind not in _INTEGERS:
        raise DataError(
            f"{inputs.name}: expected integers, as the training inputs are, got dtype {inputs.values.dtype}"
        )


def check_alike(trains: Sequence[Split]) -> None:
    """Raises DataError where training examples that are prepared together have different shapes."""
    for train in trains[1:]:
        for array, first in ((train.inputs, trains[0].inputs), (train.labels, trains[0].labels)):
            if array.values.shape[1:] != first.values.shape[1:]:
                raise DataError(
                    f"{array.name}: has examples of shape {array.values.shape[1:]}, but {first.name} of shape "
                    f"{first.values.shape[1:]}; sources that are mixed need examples of one shape"
                )


def empty_classes(labels: Named) -> list[str]:
    """Returns a sentence on the classes below the largest label of which there is no example, if there are any.

    Example:
      >>> empty_classes(Named("train.npz:labels", np.array([2, 1, 3])))
      ['train.npz:labels: labels begin at 1, so that class 0 has no example; subtract 1 from all labels']
    """
    name, values = labels
    there = np.unique(values)
    largest, absent = int(there[-1]), int(there[-1]) + 1 - len(there)
    if not absent:
        return []
    if absent == int(there[0]) == 1:
        return [f"{name}: labels begin at 1, so that class 0 has no example; subtract 1 from all labels"]
    gap = int(np.argmax(there != np.arange(len(there))))
    which = f"{absent} of the classes 0..{largest} have" if absent > 1 else f"class {gap} of 0..{largest} has"
    return [
        f"{name}: {which} no example{f', such as class {gap}' * (absent > 1)}; number the classes without gaps, or set "
        f"data.classes: {largest + 1} if this is meant"
    ]


def outputs_of(section: Any, task: str, given: Named) -> dict[str, int]:
    """Returns the number of `classes` or `targets` that a task has with some training labels."""
    stated = getattr(section, "classes", None)
    name, labels = given
    columns = 1 if labels.ndim == 1 else labels.shape[1]
    if task == "classify":
        seen = min(int(labels.max()), _INT32_MAX - 1) + 1
        if stated is None and labels.min() == labels.max():
            raise DataError(
                f"{name}: has one class only, {labels[0]}; there is nothing to tell apart, unless "
                "data.classes says how many there are"
            )
        there = len(np.unique(labels)) if stated is None and seen > MOST_INFERRED else seen
        if seen > INFERRED_EACH * there:
            raise DataError(
                f"{_item(name, (int(labels.argmax()),))} is {labels.max()}, so that there would be {seen:,} classes, "
                f"{there:,} of them with an example; correct that label, or set data.classes: {seen} if this is meant"
            )
        return {"classes": seen if stated is None else stated}
    if stated is not None and (task != "multilabel" or stated != columns):
        raise DataError(
            f"data.classes is {stated}, but {name} has {columns} columns of {task} labels; leave data.classes out"
        )
    return {"classes": columns} if task == "multilabel" else {"targets": columns}


def check_classes(task: str, section: Any, learned: Mapping[str, Any], splits: Mapping[str, Split]) -> None:
    """Raises DataError where a label is beyond the classes."""
    if task != "classify":
        return
    classes, train = learned["classes"], splits.get("train")
    for name, values in (split.labels for split in splits.values()):
        at = _first(values, lambda chunk: chunk >= classes)
        if at is not None:
            seen = "of the run" if train is None else f"the largest label of {train.labels.name}, plus one"
            origin = seen if getattr(section, "classes", None) is None else "data.classes"
            enough = max(int(split.labels.values.max()) for split in splits.values()) + 1
            fix = "" if train is None else f", or set data.classes: {enough}"
            raise DataError(
                f"{_item(name, at)} is {values[at]}, outside the classes 0..{classes - 1} ({classes}: {origin}); "
                f"correct that label{fix}"
            )


def vocabulary_of(splits: Sequence[Split]) -> dict[str, int]:
    """Returns the number of tokens, where the inputs of every split may be tokens."""
    largest = 0
    for split in splits:
        values = split.inputs.values
        if values.dtype.kind not in _INTEGERS or values.ndim != 2:
            return {}
        for _, chunk in _chunks(values):
            if chunk.min() < 0 or chunk.max() >= _INT32_MAX:
                return {}
            largest = max(largest, int(chunk.max()))
    return {"vocabulary": largest + 1}


def _first(values: np.ndarray, is_bad: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """Returns the index of the first value for which `is_bad` holds, in row-major order."""
    for start, chunk in _chunks(values):
        bad = is_bad(chunk)
        if bad.any():
            row, *rest = np.unravel_index(int(bad.argmax()), bad.shape)
            return (start + int(row), *(int(i) for i in rest))
    return None


def _chunks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, CHECK_VALUES * len(values) // values.size)
    for start in range(0, len(values), rows):
        yield start, np.asarray(values[start : start + rows])


def _item(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]"
