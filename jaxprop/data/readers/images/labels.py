"""Labels as the files have them become numbers: classes by their names, numbers to regress, or several names each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.bad import BadRecords
from jaxprop.data.readers.images.records import Records
from jaxprop.errors import DataError, did_you_mean, printable

_LARGEST = float(np.finfo(np.float32).max)
_LISTED = 8  # class names that a message lists


class Labels(NamedTuple):
    """The labels of the records that can be used.

    Args:
      rows: which these are, int64 `[M]`.
      values: int32 `[M]` for classify, float32 `[M, 1]` for regress, float32 `[M, K]` for multilabel.
    """

    rows: np.ndarray
    values: np.ndarray


def names_of(task: str, path: str, records: Records) -> list[str]:
    """Returns the names of the classes of training records, in the order of their numbers.

    Names that the files give an order keep it; others that are all integers are sorted as such, and the rest as text.

    Args:
      task: its name; none are needed to regress.
      path: of the records, for messages.
      records: the training records.

    Raises:
      DataError: there are fewer than two.

    Example:
      >>> records = Records(3, read=None, name=str, labels=["10", "9", "10"], digest="")
      >>> names_of("classify", "train.csv", records)
      ['9', '10']
    """
    if task == "regress" or records.labels is None:
        return []
    many = task == "multilabel"
    found = {
        name
        for index, label in enumerate(records.labels)
        if index not in records.problems
        for name in (_names(label, records.class_names) if many else [name_of(label, records.class_names)])
        if name is not None
    }
    named = [name for name in records.class_names or () if name in found]
    names = named if len(named) == len(found) else sorted(found, key=_order(found))
    if len(names) < (1 if many else 2):
        what = f"has one class only, {names[0]!r}" if names else "none of its records has a label"
        first = next((f" ({records.name(index)}: {why})" for index, why in records.problems.items()), "")
        raise DataError(f"{path}: {what}{first}; to tell classes apart takes records of at least two")
    return names


def joined(parts: Sequence[Records]) -> Records:
    """Returns records of several sources as those of one, for `names_of`; their images are not read.

    Example:
      >>> one = Records(2, read=None, name=str, labels=[1, 0], digest="", class_names=["dog", "cat"])
      >>> two = Records(1, read=None, name=str, labels=["owl"], digest="")
      >>> joined([one, two]).labels, names_of("classify", "train", joined([one, two]))
      (['cat', 'dog', 'owl'], ['cat', 'dog', 'owl'])
    """
    if len(parts) == 1:
        return parts[0]
    labels: list[Any] = []
    problems: dict[int, str] = {}
    where: list[str] = []
    for part in parts:
        assert part.labels is not None
        problems |= {len(labels) + index: why for index, why in part.problems.items()}
        where += [part.name(index) for index in part.problems]
        labels += [_named(label, part.class_names) for label in part.labels]
    ordered = all(part.class_names is not None for part in parts)
    return Records(
        length=len(labels),
        read=lambda _: b"",
        name=dict(zip(problems, where, strict=True)).__getitem__,
        labels=labels,
        digest="",
        class_names=list(dict.fromkeys(n for part in parts for n in part.class_names or ())) if ordered else None,
        problems=problems,
    )


def _named(label: Any, class_names: Sequence[str] | None) -> Any:
    """A label by name, where it can be one."""
    if isinstance(label, list | tuple):
        return [_named(part, class_names) for part in label]
    if class_names is None or isinstance(label, str):
        return label if class_names is None else label.strip()
    return name_of(label, class_names)


def encode(
    task: str, records: Records, names: Sequence[str], bad: BadRecords, *, left_out: Sequence[int] = ()
) -> Labels:
    """Turns labels into numbers, and leaves out the records that have none.

    Args:
      task: `classify`, `multilabel` or `regress`.
      records: with labels.
      names: of the classes, in the order of their numbers.
      bad: takes the records that are left out.
      left_out: records that are left out without a word, as an earlier run has.

    Raises:
      DataError: no record may be left out, and one has to be.
    """
    assert records.labels is not None
    codes = {name: number for number, name in enumerate(names)}
    known = frozenset(left_out)
    rows: list[int] = []
    values: list[Any] = []
    for index, label in enumerate(records.labels):
        if index in known:
            continue
        try:
            if index in records.problems:
                raise _BadLabel(records.problems[index])
            values.append(_ENCODE[task](label, records.class_names, codes))
            rows.append(index)
        except _BadLabel as error:
            bad.add(records.name(index), str(error))
    if task == "classify":
        return Labels(np.array(rows, np.int64), np.array(values, np.int32))
    width = len(names) if task == "multilabel" else 1
    return Labels(np.array(rows, np.int64), np.array(values, np.float32).reshape(len(rows), width))


def name_of(label: Any, class_names: Sequence[str] | None = None) -> str | None:
    """Returns the name of a class as text; None where a label is missing, or cannot be one.

    Args:
      label: text, or an integer.
      class_names: of integers, where there are such.

    Example:
      >>> name_of(" cat "), name_of(1, ["cat", "dog"]), name_of(3.0), name_of("")
      ('cat', 'dog', '3', None)
    """
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, int):
        if class_names is None:
            return str(label)
        return class_names[label] if 0 <= label < len(class_names) else None
    return label.strip() or None if isinstance(label, str) else None


class _BadLabel(Exception):
    """Why a record's label cannot be used."""


def _class(label: Any, class_names: Sequence[str] | None, codes: Mapping[str, int]) -> int:
    name = name_of(label, class_names)
    if name is None:
        missing = label is None or (isinstance(label, str) and not label.strip())
        raise _BadLabel("has no label" if missing else f"its label {_shown(label)} names no class")
    if name not in codes:
        known = ", ".join(list(codes)[:_LISTED]) + (", ..." if len(codes) > _LISTED else "")
        raise _BadLabel(
            f"is of the class {_shown(name)}, which no training record has{did_you_mean(name, codes)} "
            f"(classes: {known})"
        )
    return codes[name]


def _classes(label: Any, class_names: Sequence[str] | None, codes: Mapping[str, int]) -> np.ndarray:
    if label is None:
        raise _BadLabel("has no labels; an empty list says that none applies")
    values = np.zeros(len(codes), np.float32)
    parts = _parts(label)
    for part in parts:
        values[_class(part, class_names, codes)] = 1
    return values


def _number(label: Any, class_names: Sequence[str] | None, codes: Mapping[str, int]) -> float:
    del class_names, codes
    try:
        value = math.nan if isinstance(label, bool) else float(label)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise _BadLabel("has no label" if label in (None, "") else f"its label {_shown(label)} is no finite number")
    return value


_ENCODE = {"classify": _class, "multilabel": _classes, "regress": _number}


def _names(label: Any, class_names: Sequence[str] | None) -> list[str | None]:
    return [name_of(part, class_names) for part in _parts(label)]


def _parts(label: Any) -> list[Any]:
    """The labels of one record: a list of them, or a text with `|` or `;` between."""
    if isinstance(label, str):
        return [part for part in re.split("[|;]", label) if part.strip()]
    return list(label) if isinstance(label, list | tuple) else [label]


def _order(names: set[str]) -> Any:
    """The sort key of class names: integers by value."""
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)
    return (lambda name: (int(name), name)) if numbers else (lambda name: name)


def _shown(label: Any) -> str:
    return printable(repr(label))[:60]
