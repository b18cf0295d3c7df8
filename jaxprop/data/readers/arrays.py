"""Your own arrays from `.npz` and `.npy` files, checked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprop.config.schema.data import Arrays
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers import array_checks as checks
from jaxprop.data.readers.array_checks import NUMBERS, OPTIONAL, REQUIRED, Split, check_split
from jaxprop.data.readers.numpy_files import Named, kind_of, load_npy, load_npz
from jaxprop.data.scale import Scale, as_json, far_from_unit, from_json, scale_of, standardize
from jaxprop.data.splits import held_out
from jaxprop.errors import ConfigError, DataError, did_you_mean
from jaxprop.types import Reader, Source

_SCALE_VALUES = 2**22  # values that say whether inputs are far from unit scale
_SPLITS = ("train", "validation", "test")
_Rows = np.ndarray | slice
_ALL = slice(None)


def open_arrays(section: Arrays, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens and checks arrays from files.

    `.npy` files are memory-mapped, and so are arrays of 64 MiB and more in a `.npz` that is not compressed. Values are
    not scaled, unless `data.standardize` is set. Each batch is cast to float32, and class labels to int32. Inputs that
    are integers `[N, T]`, none of them negative, may be tokens: they stay integers, int32, and `info["vocabulary"]` is
    the largest plus one.

    A `.npz` may also hold `weight` `[N]`, how much each example counts, and `mask`, of the labels' shape or its first
    axes, 0 where a label counts for nothing. Both are finite and not negative, and go into the batches as float32.
    Other arrays in it are not used, and named in `info["notes"]`.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `"classify"` (labels: integers `[N]` in 0..classes-1), `"multilabel"` (zeros and ones `[N, K]`)
        or `"regress"` (finite numbers `[N]` or `[N, K]`).
      prepared: of an earlier run, whose sizes and statistics are used; the training data are then read only to hold
        out a part of them.

    Returns:
      `train`, and `validation` and `test` if the section names them. Batches have inputs float32 `[B, ...]` or int32
      `[B, T]` and labels int32 `[B]` or float32 `[B, K]`; regression targets `[N]` become `[B, 1]`. `info` holds
      `classes` (K for multilabel), or `targets` (K) for regress, and `vocabulary` where inputs may be tokens.

    Raises:
      ConfigError: the section names no training data, or names them twice.
      DataError: a file is missing or unreadable, or its arrays do not fit each other or the task.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> path = Path(tempfile.mkdtemp()) / "train.npz"
      >>> np.savez(path, inputs=np.zeros((4, 3)), labels=np.array([0, 1, 2, 1]))
      >>> train = open_arrays(Arrays(name="arrays", train=str(path)), "classify")["train"]
      >>> train.length, train.info, train.take(np.array([2]))["inputs"].dtype.name
      (4, {'classes': 3}, 'float32')
    """
    return sources_of(section, task, prepared, _load_splits(section, used_only=prepared is not None))


def sources_of(
    section: Any,
    task: str,
    prepared: Mapping[str, Any] | None,
    given: Mapping[str, Split],
    more: Mapping[str, Any] = {},
) -> dict[str, Source]:
    """Checks arrays and turns them into sources, wherever they have been read from.

    Args:
      section: with `validation`, `split_seed`, `standardize` and `classes`.
      task: its name.
      prepared: of an earlier run.
      given: the arrays of each split.
      more: what else has been learned of the training data, and belongs to `prepared`.
    """
    splits = {name: check_split(split, task) for name, split in given.items()}
    parts = _parts(section, splits)
    learned = _learn(section, task, splits, parts) | dict(more) if prepared is None else prepared
    for split in splits.values():
        checks.check_fits(split, learned, splits.get("train"))
    checks.check_classes(task, section, learned, splits)
    scale_note = _scale_note(learned, splits["train"], parts["train"][1]) if prepared is None else []
    opened = {}
    for name, (of, rows) in parts.items():
        notes = (_notes(splits[of]) if of == name else []) + (scale_note if name == "train" else [])
        opened[name] = _source(splits[of], task, rows, learned, notes)
    return opened


def _load_splits(section: Arrays, *, used_only: bool) -> dict[str, Split]:
    """The splits that the section names; of a run that is only used, training data only to hold out a part."""
    holds_out = isinstance(section.validation, float)
    wanted = [name for name in _SPLITS if not (used_only and name == "train" and not holds_out)]
    splits: dict[str, Split] = {}
    for name in wanted:
        try:
            split = _load(section, name)
        except DataError:
            if not (used_only and name == "train"):
                raise
            continue  # the training data are gone, and with them what was held out
        if split is not None:
            splits[name] = split
    if not used_only and "train" not in splits:
        raise ConfigError(
            "data 'arrays' names no training data; set data.train: FILE.npz (holding inputs and labels), "
            "or data.train_inputs and data.train_labels: FILE.npy"
        )
    return splits


def _parts(section: Any, splits: Mapping[str, Split]) -> dict[str, tuple[str, _Rows]]:
    """The split and the rows of each source: all of a split, but where a part of the training data is held out."""
    parts: dict[str, tuple[str, _Rows]] = {name: (name, _ALL) for name in splits}
    if isinstance(section.validation, float) and "train" in splits:
        labels = splits["train"].labels.values
        stays, held = held_out(np.asarray(labels), section.validation, section.split_seed)
        if not len(stays):
            raise DataError(
                f"data.validation: {section.validation:g} of the {len(labels)} training examples leaves none to train "
                "on; use a smaller fraction"
            )
        return {"train": ("train", stays), "validation": ("train", held)} | {
            name: part for name, part in parts.items() if name != "train"
        }
    return parts


def _learn(
    section: Any, task: str, splits: Mapping[str, Split], parts: Mapping[str, tuple[str, _Rows]]
) -> dict[str, Any]:
    """What all later data are prepared by, as JSON values: `Source.prepared`."""
    train = splits["train"]
    shapes = {"inputs": list(train.inputs.values.shape[1:]), "labels": list(train.labels.values.shape[1:])}
    learned: dict[str, Any] = {"shapes": shapes, **checks.outputs_of(section, task, train)}
    if section.standardize:
        return learned | {"scale": as_json(scale_of(_rows_of(train.inputs.values, parts["train"][1])))}
    return learned | checks.vocabulary_of(splits)


def _rows_of(values: np.ndarray, rows: _Rows, limit: int | None = None) -> Iterator[np.ndarray]:
    """The chosen rows of an array in parts; no more than evenly spaced ones of `limit` values where one is given."""
    chosen = np.arange(len(values))[rows]
    width = max(1, values.size // len(values))
    if limit is not None and len(chosen) * width > limit:
        chosen = chosen[:: -(-len(chosen) * width // limit)]
    step = max(1, checks.CHECK_VALUES // width)
    for start in range(0, len(chosen), step):
        yield np.asarray(values[chosen[start : start + step]])


def _scale_note(learned: Mapping[str, Any], train: Split, rows: _Rows) -> list[str]:
    if "scale" in learned or "vocabulary" in learned:
        return []
    note = far_from_unit(
        scale_of(_rows_of(train.inputs.values, rows, _SCALE_VALUES)), train.inputs.name, "data.standardize: true"
    )
    return [] if note is None else [note]


def _notes(split: Split) -> list[str]:
    """A sentence on the arrays that are not used, if there are any."""
    if not split.unused:
        return []
    file = split.inputs.name.removesuffix(":inputs")
    likely = next((hint for name in split.unused if (hint := did_you_mean(name, OPTIONAL))), "")
    what = "the array {} is" if len(split.unused) == 1 else "the arrays {} are"
    said = f"{file}: {what.format(', '.join(split.unused))} not used; jaxprop reads inputs, labels, weight and mask"
    return [said + likely]


def _load(section: Arrays, split: str) -> Split | None:
    given, inputs, labels = (getattr(section, split + suffix) for suffix in ("", "_inputs", "_labels"))
    archive = given if isinstance(given, str) else None
    pair = inputs is not None or labels is not None
    if given is not None and pair:
        raise ConfigError(
            f"data.{split} and data.{split}_inputs/{split}_labels are both set; keep the .npz or the pair of .npy"
        )
    if archive is not None:
        held, unused = load_npz(archive, REQUIRED, OPTIONAL)
        return Split(held["inputs"], held["labels"], held.get("weight"), held.get("mask"), tuple(unused))
    if not pair:
        return None
    if inputs is None or labels is None:
        missing = f"{split}_inputs" if inputs is None else f"{split}_labels"
        raise ConfigError(f"data.{missing} is not set; {split}_inputs and {split}_labels: FILE.npy go together")
    return Split(load_npy(inputs), load_npy(labels))


# -- the sources ----------------------------------------------------------------------------------


def _source(split: Split, task: str, rows: _Rows, learned: Mapping[str, Any], notes: Sequence[str]) -> Source:
    inputs, labels = split.inputs.values, np.asarray(split.labels.values)
    if isinstance(inputs, np.ndarray):  # indexing a memmap gives another memmap, so batches are taken of plain arrays
        inputs = np.asarray(inputs)
    chosen = np.arange(len(inputs))[rows]
    extra = {name: array.values for name in OPTIONAL if (array := getattr(split, name)) is not None}
    label_dtype = np.int32 if task == "classify" else np.float32
    if task == "regress" and labels.ndim == 1:
        labels = labels[:, None]  # outputs are [B, 1]; against [B] a difference would broadcast to [B, B]
    cast = _caster(learned)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        at = chosen[indices]
        return {
            "inputs": cast(inputs[at]),
            "labels": labels[at].astype(label_dtype, copy=False),
            **{name: values[at].astype(np.float32, copy=False) for name, values in extra.items()},
        }

    told = ("classes", "class_names", "targets", "target_names", "vocabulary")
    info = {name: learned[name] for name in told if name in learned}
    return Source(
        length=len(chosen),
        take=take,
        info=info | ({"notes": list(notes)} if notes else {}),
        fingerprint=_digest(split, task, rows, learned, extra),
        prepared=learned,
        labels=lambda: labels[rows].astype(label_dtype, copy=False),
    )


def _digest(split: Split, task: str, rows: _Rows, learned: Mapping[str, Any], extra: Mapping[str, np.ndarray]) -> str:
    named = [part for name, values in extra.items() for part in (name, values)]  # none in files without: as ever
    digest = fingerprint("arrays", task, _content(split.inputs.values), split.labels.values, *named)
    if isinstance(rows, np.ndarray):
        digest = fingerprint("subset", digest, rows)
    return fingerprint("scaled", digest, repr(learned["scale"])) if "scale" in learned else digest


def _content(values: Any) -> np.ndarray | str:
    """What a fingerprint takes of an array; what is read where it is indexed knows a digest of its files."""
    return values if isinstance(values, np.ndarray) else str(values.digest)


def _caster(learned: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """What makes inputs of a batch: tokens stay integers, all others become floats, standardized if that is asked."""
    scale: Scale | None = from_json(learned["scale"]) if "scale" in learned else None
    if scale is not None:
        return lambda values: standardize(values, scale)
    dtype = np.int32 if "vocabulary" in learned else np.float32
    return lambda values: values.astype(dtype, copy=False)


def array_inputs(section: Arrays, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens inputs without labels, to predict.

    Args:
      section: not looked at.
      task: not looked at.
      prepared: what the run has learned of its training data.
      paths: `.npz` files that hold `inputs`, and `.npy` files.

    Returns:
      A source of inputs alone; `info["names"]` are such as `new.npy:3`, counted from 0.

    Raises:
      DataError: a file is missing or unreadable, or its examples do not fit the run.
    """
    del section, task
    parts = [_inputs_of(path) for path in paths]
    return inputs_of(parts, paths, prepared)


def inputs_of(parts: Sequence[Named], paths: Sequence[str], prepared: Mapping[str, Any]) -> Source:
    """Checks inputs without labels and turns them into a source, wherever they have been read from.

    Args:
      parts: arrays of inputs.
      paths: what each was read from.
      prepared: what the run has learned of its training data.
    """
    wanted = tuple(prepared["shapes"]["inputs"])
    for name, values in parts:
        if values.ndim == 0 or values.shape[1:] != wanted:
            fix = (
                f"; for one example, save it as values[None], of shape {(1, *wanted)}" if values.shape == wanted else ""
            )
            raise DataError(f"{name}: holds examples of shape {values.shape[1:]}, but the run takes {wanted}{fix}")
        if not values.size or values.dtype.kind not in NUMBERS:
            what = "is empty" if not values.size else f"expected real numbers, got dtype {values.dtype}"
            raise DataError(f"{name}: {what}")
        checks.check_finite(Named(name, values))
        if "vocabulary" in prepared:
            checks.check_tokens(Named(name, values), prepared["vocabulary"])
    cast, ends = _caster(prepared), np.cumsum([len(values) for _, values in parts])

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        of = np.searchsorted(ends, indices, side="right")
        rows = np.empty((len(indices), *wanted), np.result_type(*(values.dtype for _, values in parts)))
        for part in np.unique(of).tolist():
            values = parts[part].values
            rows[of == part] = values[indices[of == part] - int(ends[part]) + len(values)]
        return {"inputs": cast(rows)}

    return Source(
        length=int(ends[-1]) if len(ends) else 0,
        take=take,
        info={
            "names": [f"{path}:{i}" for path, (_, values) in zip(paths, parts, strict=True) for i in range(len(values))]
        },
        fingerprint=fingerprint("arrays to predict", *(_content(values) for _, values in parts)),
        prepared=prepared,
    )


def _inputs_of(path: str) -> Named:
    if path == "-":
        raise DataError("-: arrays are not read from standard input; name a .npz that holds inputs, or a .npy")
    return load_npz(path, ("inputs",))[0]["inputs"] if kind_of(path) == ".npz" else load_npy(path)


ARRAYS = Reader(open=open_arrays, inputs=array_inputs)
