"""Data of the user's own code: sources, or arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprop.code.load import Code, load_code
from jaxprop.config.schema.data import Arrays, CustomData, DataSection
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.array_checks import Split
from jaxprop.data.readers.arrays import sources_of
from jaxprop.data.readers.numpy_files import Named
from jaxprop.errors import DataError, did_you_mean
from jaxprop.types import Reader, Source

SPLITS = ("train", "validation", "test")
CHECKED = ("inputs", "labels", "weight", "mask")  # arrays with these names alone are checked for their task
TASKS = ("classify", "multilabel", "regress")
RETURNS = (
    "a jaxprop Source, a dict of arrays such as {'inputs': ..., 'labels': ...}, or a dict of these by split: train, "
    "validation, test"
)


def open_own(section: CustomData, task: str, prepared: Mapping[str, Any] | None) -> dict[str, Source]:
    """Opens what a function of the user's returns.

    It is called with the arguments of its section, and with those of `task`, `prepared` and the keys that all data
    have, such as `batch_size`, that its signature has. Arrays are cast to float32 and int32. For the tasks that
    `data.name: arrays` reads, they are checked as these are.

    Args:
      section: the section `data`.
      task: the task's name.
      prepared: what an earlier run has stored of a source's `prepared`, or None.

    Raises:
      ConfigError: it raises an error, or returns something else.
      DataError: the arrays do not fit each other or the task.
    """
    code = load_code(section, ("data",))
    keys = {name: getattr(section, name) for name in DataSection.model_fields}
    splits = _splits(code, code(task=task, prepared=prepared, **keys), new=prepared is None)
    arrays = {name: held for name, held in splits.items() if isinstance(held, dict)}
    plain = all(set(CHECKED[:2]) <= held.keys() <= set(CHECKED) for held in arrays.values())
    learned = prepared is None or "shapes" in prepared  # a run of an earlier jaxprop has stored nothing of its arrays
    if len(arrays) == len(splits) and plain and task in TASKS and learned:
        return _checked(section, arrays, task, prepared, code.section.name)
    sizes = _sizes(arrays, task)
    return {
        name: _source(f"{code.section.name}:{name}", held, sizes) if isinstance(held, dict) else held
        for name, held in splits.items()
    }


def _checked(
    section: CustomData,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    task: str,
    prepared: Mapping[str, Any] | None,
    name: str,
) -> dict[str, Source]:
    """Sources of arrays that are checked as those of files are; `name` is of where they come from, for messages."""

    def split_of(split: str, held: Mapping[str, np.ndarray]) -> Split:
        named = {key: Named(f"{name}:{split}:{key}", values) for key, values in held.items()}
        return Split(named["inputs"], named["labels"], named.get("weight"), named.get("mask"))

    like = Arrays.model_validate(
        {"name": "arrays", "train": name, "validation": section.validation, "split_seed": section.split_seed}
    )
    return sources_of(like, task, prepared, {split: split_of(split, held) for split, held in arrays.items()})


def _splits(code: Code, returned: Any, new: bool) -> dict[str, Source | dict[str, np.ndarray]]:
    """What was returned by split, each a source or a dict of arrays."""
    if isinstance(returned, Source) or (isinstance(returned, Mapping) and "inputs" in returned):
        returned = {"train": returned}
    if not isinstance(returned, Mapping) or not returned:
        raise code.wrong(f"expected {code.section.name} to return {RETURNS}; got {type(returned).__name__}")
    for name in returned:
        if name not in SPLITS:
            raise code.wrong(
                f"{code.section.name} returned {name!r}{did_you_mean(str(name), SPLITS)}; expected {RETURNS}"
            )
    if new and "train" not in returned:
        raise code.wrong(f"{code.section.name} returned no 'train'; expected {RETURNS}")
    return {name: _split(code, name, held) for name, held in returned.items()}


def _split(code: Code, name: str, held: Any) -> Source | dict[str, np.ndarray]:
    if isinstance(held, Source):
        if held.length < 1:
            raise code.wrong(f"the source {name!r} that {code.section.name} returned has no records")
        return held
    if not isinstance(held, Mapping) or not held:
        raise code.wrong(f"expected {code.section.name} to return {RETURNS}; {name!r} is {type(held).__name__}")
    arrays = {str(key): np.asarray(values) for key, values in held.items()}
    for key, values in arrays.items():
        if values.dtype.kind not in "biuf" or values.ndim == 0:
            raise DataError(
                f"{code.section.name}:{name}:{key}: expected an array of numbers with one entry for each example, got "
                f"{values.dtype} of shape {values.shape}"
            )
    lengths = {key: len(values) for key, values in arrays.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise DataError(
            f"{code.section.name}:{name}: expected arrays with the same number of examples, at least one, got {lengths}"
        )
    return arrays


def _sizes(splits: Mapping[str, Mapping[str, np.ndarray]], task: str) -> dict[str, int]:
    """The sizes that a task and its models need, as far as the arrays show them."""
    held = [arrays for arrays in splits.values() if "labels" in arrays]
    if not held:
        return {}
    labels = held[0]["labels"]
    if task == "language":
        tokens = [arrays[key] for arrays in held for key in ("inputs", "labels") if key in arrays]
        return {"vocabulary": max(int(values.max()) for values in tokens) + 1}
    if task == "classify" and labels.dtype.kind in "iu":
        return {"classes": max(int(arrays["labels"].max()) for arrays in held) + 1}
    columns = labels.shape[1] if labels.ndim > 1 else 1
    return {"classes" if task == "multilabel" else "targets": columns}


def _source(name: str, arrays: dict[str, np.ndarray], sizes: Mapping[str, int]) -> Source:
    cast = {key: np.asarray(values, _DTYPES.get(values.dtype.kind)) for key, values in arrays.items()}
    labels = cast.get("labels")
    return Source(
        length=len(next(iter(cast.values()))),
        take=lambda indices: {key: values[indices] for key, values in cast.items()},
        info=sizes,
        fingerprint=fingerprint(name.rpartition(":")[2], *(part for pair in cast.items() for part in pair)),
        labels=None if labels is None else lambda: labels,
    )


_DTYPES = {"f": np.float32, "i": np.int32, "u": np.int32}

OWN = Reader(open_own)
