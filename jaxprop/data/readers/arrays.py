"""Your own arrays from `.npz` and `.npy` files, checked before the first step."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprop.config.schema.data import Arrays
from jaxprop.data.fingerprint import fingerprint
from jaxprop.errors import ConfigError, DataError, did_you_mean
from jaxprop.types import Reader, Source

_NUMBERS = "biuf"  # dtype kinds: bool, signed, unsigned, floating
_INTEGERS = "iu"
_INT32_MAX = 2**31 - 1
# Values checked at a time, so that a memory-mapped file larger than memory can be checked.
_CHECK_VALUES = 2**20
_FORMATS = {b"PK": ".npz", b"\x93N": ".npy"}
_DAMAGED = "is damaged, cut short or not a NumPy file; write it again with np.save or np.savez"
_REQUIRED, _OPTIONAL = ("inputs", "labels"), ("weight", "mask")  # the arrays of a .npz that are used
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class _Named(NamedTuple):
    """An array and its name in messages, such as `train.npz:labels`."""

    name: str
    values: np.ndarray


class _Split(NamedTuple):
    inputs: _Named
    labels: _Named
    weight: _Named | None = None
    mask: _Named | None = None
    unused: tuple[str, ...] = ()  # other arrays of the same file


def open_arrays(section: Arrays, task: str) -> dict[str, Source]:
    """Opens and checks arrays from files; `.npy` files are memory-mapped, `.npz` files are read into memory.

    Values are not scaled. Each batch is cast to float32, and class labels to int32. Inputs that are integers `[N, T]`,
    none of them negative, may be tokens: they stay integers, int32, and `info["vocabulary"]` is the largest plus one.

    A `.npz` may also hold `weight` `[N]`, how much each example counts, and `mask`, of the labels' shape or its first
    axes, 0 where a label counts for nothing. Where inputs are tokens `[N, T]`, a `mask` of their shape is 0 for
    padding. Both are finite and not negative, and go into the batches as float32. Other arrays in it are not used, and
    named in `info["notes"]`.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `"classify"` (labels: integers `[N]` in 0..classes-1), `"multilabel"` (zeros and ones `[N, K]`)
        or `"regress"` (finite numbers `[N]` or `[N, K]`).

    Returns:
      `train`, and `test` if the section names one. Batches have inputs float32 `[B, ...]` or int32 `[B, T]` and labels
      int32 `[B]` or float32 `[B, K]`; regression targets `[N]` become `[B, 1]`. `info` holds `classes` (K for
      multilabel), or `targets` (K) for regress, and `vocabulary` where inputs may be tokens.

    Raises:
      ConfigError: the section names no training data, or names them twice.
      DataError: a file is missing or unreadable, or its arrays do not fit each other or the task.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "train.npz"
      >>> np.savez(path, inputs=np.zeros((4, 3)), labels=np.array([0, 1, 2, 1]))
      >>> train = open_arrays(Arrays(name="arrays", train=str(path)), "classify")["train"]
      >>> train.length, train.info, train.take(np.array([2]))["inputs"].dtype.name
      (4, {'classes': 3}, 'float32')
    """
    train = _load(section, "train")
    if train is None:
        raise ConfigError(
            "data 'arrays' names no training data; set data.train: FILE.npz (holding inputs and labels), "
            "or data.train_inputs and data.train_labels: FILE.npy"
        )
    test = _load(section, "test")
    splits = {"train": train} if test is None else {"train": train, "test": test}
    for name, split in splits.items():
        _check_examples(split)
        _check_weights(split)
        splits[name] = _without_masked_labels(split)
        _LABEL_CHECKS[task](splits[name].labels)
    if test is not None:
        _check_same_shape(train.inputs, test.inputs)
        _check_same_shape(train.labels, test.labels)
    info = _outputs(section, task, splits) | _vocabulary(splits)
    return {name: _source(split, task, info) for name, split in splits.items()}


def _notes(split: _Split) -> dict[str, list[str]]:
    """A sentence on the arrays that are not used, if there are any."""
    if not split.unused:
        return {}
    file = split.inputs.name.removesuffix(":inputs")
    likely = next((hint for name in split.unused if (hint := did_you_mean(name, _OPTIONAL))), "")
    what = "the array {} is" if len(split.unused) == 1 else "the arrays {} are"
    said = f"{file}: {what.format(', '.join(split.unused))} not used; jaxprop reads inputs, labels, weight and mask"
    return {"notes": [said + likely]}


# -- reading --------------------------------------------------------------------------------------


def _load(section: Arrays, split: str) -> _Split | None:
    archive, inputs, labels = (getattr(section, split + suffix) for suffix in ("", "_inputs", "_labels"))
    pair = inputs is not None or labels is not None
    if archive is not None and pair:
        raise ConfigError(
            f"data.{split} and data.{split}_inputs/{split}_labels are both set; keep the .npz or the pair of .npy"
        )
    if archive is not None:
        return _load_npz(archive)
    if not pair:
        return None
    if inputs is None or labels is None:
        missing = f"{split}_inputs" if inputs is None else f"{split}_labels"
        raise ConfigError(f"data.{missing} is not set; {split}_inputs and {split}_labels: FILE.npy go together")
    return _Split(_load_npy(inputs), _load_npy(labels))


def _load_npz(path: str) -> _Split:
    with _reading(path), _find(path, ".npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for key in _REQUIRED:
            if key not in archive.files:
                raise DataError(
                    f"{path}: has no array {key!r}{did_you_mean(key, archive.files)} (it holds: "
                    f"{', '.join(archive.files) or 'nothing'}); write np.savez({path!r}, inputs=..., labels=...)"
                )
        held = {key: _member(archive, path, key) for key in (*_REQUIRED, *_OPTIONAL) if key in archive.files}
        unused = tuple(key for key in archive.files if key not in held)
        return _Split(held["inputs"], held["labels"], held.get("weight"), held.get("mask"), unused)


def _member(archive: np.lib.npyio.NpzFile, path: str, key: str) -> _Named:
    name = f"{path}:{key}"
    with _reading(name):
        return _Named(name, archive[key])


def _load_npy(path: str) -> _Named:
    with _reading(path):
        return _Named(path, np.load(_find(path, ".npy"), mmap_mode="r", allow_pickle=False))


def _find(path: str, expected: str) -> Path:
    file = Path(path).expanduser()
    if not file.exists():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"{path}: no such file under {Path.cwd()}{did_you_mean(file.name, beside)}")
    if not file.is_file():
        raise DataError(f"{path}: expected a {expected} file, got a directory")
    with file.open("rb") as content:
        # The format is told by the content: the name may be wrong, and np.load takes any other file for a pickle.
        found = _FORMATS.get(content.read(2))
    if found is None:
        raise DataError(f"{path}: {_DAMAGED}")
    if found != expected:
        raise DataError(
            f"{path}: expected a {expected} file, got a {found}; give a .npz (holding inputs and labels) as data.train "
            "or data.test, and .npy files as train_inputs and train_labels, or test_inputs and test_labels"
        )
    return file


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns the errors that NumPy raises for unreadable files into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read: {error.strerror}") from error
        if "object" in str(error).lower():
            raise DataError(
                f"{name}: holds Python objects (dtype object), which jaxprop never unpickles; "
                "save numbers instead, as np.asarray(values, np.float32)"
            ) from error
        raise DataError(f"{name}: {_DAMAGED}") from error


# -- checking -------------------------------------------------------------------------------------


def _check_examples(split: _Split) -> None:
    for name, values in split[:2]:
        if values.dtype.kind not in _NUMBERS:
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
    _check_finite(inputs)


def _check_weights(split: _Split) -> None:
    """Weights and masks: of the right shape, finite, not negative, and not all zero."""
    labels = split.labels.values
    for array, shapes in ((split.weight, [labels.shape[:1]]), (split.mask, _mask_shapes(split))):
        if array is None:
            continue
        name, values = array
        if values.dtype.kind not in _NUMBERS:
            raise DataError(f"{name}: expected real numbers, got dtype {values.dtype}; save it as float32")
        if values.shape not in shapes:
            wanted = " or ".join(dict.fromkeys(map(str, shapes)))
            raise DataError(f"{name}: expected shape {wanted} for labels of shape {labels.shape}, got {values.shape}")
        _check_finite(array)
        at = _first(values, lambda chunk: chunk < 0)
        if at is not None:
            raise DataError(f"{_item(name, at)} is {values[at]}, but what an example counts is never negative")
        if not values.any():
            raise DataError(f"{name}: is zero everywhere, so that no example counts; leave it out")


def _mask_shapes(split: _Split) -> list[tuple[int, ...]]:
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


def _is_of_tokens(array: _Named, split: _Split) -> bool:
    """Whether a mask says which tokens of the inputs are real, rather than which labels count."""
    inputs = split.inputs.values
    return inputs.ndim == 2 and array.values.shape == inputs.shape != split.labels.values.shape


def _without_masked_labels(split: _Split) -> _Split:
    """Labels that count for nothing hold anything, such as -100; they become 0, which every task takes."""
    name, values = split.labels
    counts = np.ones(values.shape, bool)
    for array in (split.weight, split.mask):
        if array is not None:
            held = array.values != 0
            if _is_of_tokens(array, split):
                held = held.any(1)
            counts &= held.reshape(held.shape + (1,) * (values.ndim - held.ndim))
    return (
        split if counts.all() else split._replace(labels=_Named(name, np.where(counts, values, values.dtype.type(0))))
    )


def _check_finite(array: _Named) -> None:
    name, values = array
    if values.dtype.kind != "f":
        return

    def not_finite(chunk: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return ~np.isfinite(chunk.astype(np.float32, copy=False))

    at = _first(values, not_finite)
    if at is not None:
        raise DataError(
            f"{_item(name, at)} is {values[at]}, which is not a finite float32; drop or repair that example"
        )


def _check_class_labels(labels: _Named) -> None:
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


def _check_multilabel(labels: _Named) -> None:
    name, values = labels
    if values.ndim != 2:
        raise DataError(f"{name}: expected zeros and ones of shape [N, K], got shape {values.shape}")
    at = _first(values, lambda chunk: (chunk != 0) & (chunk != 1))
    if at is not None:
        raise DataError(f"{_item(name, at)} is {values[at]}, expected 0 or 1; correct it, or set task.name: regress")


def _check_targets(labels: _Named) -> None:
    name, values = labels
    if values.ndim > 2:
        raise DataError(
            f"{name}: expected targets of shape [N] or [N, K], got {values.shape}; save labels.reshape(len(labels), -1)"
        )
    _check_finite(labels)


_LABEL_CHECKS: dict[str, Callable[[_Named], None]] = {
    "classify": _check_class_labels,
    "multilabel": _check_multilabel,
    "regress": _check_targets,
}


def _check_same_shape(train: _Named, test: _Named) -> None:
    if train.values.shape[1:] != test.values.shape[1:]:
        raise DataError(
            f"{test.name} holds examples of shape {test.values.shape[1:]}, but {train.name} of shape "
            f"{train.values.shape[1:]}; train and test must agree"
        )


def _outputs(section: Arrays, task: str, splits: dict[str, _Split]) -> dict[str, int]:
    labels = splits["train"].labels.values
    columns = 1 if labels.ndim == 1 else labels.shape[1]
    if task == "classify":
        return {"classes": _classes(section.classes, splits)}
    if section.classes is not None and (task != "multilabel" or section.classes != columns):
        raise DataError(
            f"data.classes is {section.classes}, but {splits['train'].labels.name} has {columns} columns of "
            f"{task} labels; leave data.classes out"
        )
    return {"classes": columns} if task == "multilabel" else {"targets": columns}


def _classes(stated: int | None, splits: dict[str, _Split]) -> int:
    train = splits["train"].labels
    classes = stated if stated is not None else min(int(train.values.max()), _INT32_MAX - 1) + 1
    for name, values in (split.labels for split in splits.values()):
        at = _first(values, lambda chunk: chunk >= classes)
        if at is not None:
            origin = "data.classes" if stated is not None else f"the largest label of {train.name}, plus one"
            enough = max(int(split.labels.values.max()) for split in splits.values()) + 1
            raise DataError(
                f"{_item(name, at)} is {values[at]}, outside the classes 0..{classes - 1} ({classes}: {origin}); "
                f"correct that label, or set data.classes: {enough}"
            )
    return classes


def _vocabulary(splits: dict[str, _Split]) -> dict[str, int]:
    """The number of tokens, where the inputs of every split may be tokens."""
    largest = 0
    for split in splits.values():
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
    rows = max(1, _CHECK_VALUES * len(values) // values.size)
    for start in range(0, len(values), rows):
        yield start, np.asarray(values[start : start + rows])


def _item(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


# -- the source -----------------------------------------------------------------------------------


def _source(split: _Split, task: str, info: dict[str, int]) -> Source:
    extra = {name: array.values for name in _OPTIONAL if (array := getattr(split, name)) is not None}
    named = [part for name, values in extra.items() for part in (name, values)]  # none in files without: as ever
    digest = fingerprint("arrays", task, split.inputs.values, split.labels.values, *named)
    # Indexing a memmap gives another memmap, so the batches are taken from plain arrays.
    inputs, labels = np.asarray(split.inputs.values), np.asarray(split.labels.values)
    label_dtype = np.int32 if task == "classify" else np.float32
    input_dtype = np.int32 if "vocabulary" in info else np.float32
    if task == "regress" and labels.ndim == 1:
        labels = labels[:, None]  # outputs are [B, 1]; against [B] a difference would broadcast to [B, B]

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "inputs": inputs[indices].astype(input_dtype, copy=False),
            "labels": labels[indices].astype(label_dtype, copy=False),
            **{name: values[indices].astype(np.float32, copy=False) for name, values in extra.items()},
        }

    return Source(
        length=len(inputs),
        take=take,
        info=info | _notes(split),
        fingerprint=digest,
        labels=lambda: labels.astype(label_dtype, copy=False),
    )


ARRAYS = Reader(lambda section, task, _prepared: open_arrays(section, task))
