"""Your own arrays from `.npz` and `.npy` files, checked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.schema.data import Arrays
from jaxprop.data.bad import BadInputs
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.kinds import unfit
from jaxprop.data.mapped import unchanged
from jaxprop.data.readers import array_checks as checks
from jaxprop.data.readers.array_checks import NUMBERS, OPTIONAL, REQUIRED, Split, check_split
from jaxprop.data.readers.numpy_files import Named, kind_of, load_npy, load_npz
from jaxprop.data.scale import Scale, as_json, far_from_unit, from_json, scale_of, standardize
from jaxprop.data.splits import held_out
from jaxprop.data.stored import as_bytes
from jaxprop.errors import ConfigError, DataError, did_you_mean
from jaxprop.types import Reader, Source

_SCALE_VALUES = 2**22  # values that say whether inputs are far from unit scale
_SPLITS = ("train", "validation", "test")
IF_NUMBERS = "if_numbers"  # of `Source.info`: notes that hold unless a model takes the integers as tokens
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
    if prepared is None:
        return sources_together([section], task, [given], [more])[0]
    splits = {name: check_split(split, task) for name, split in given.items()}
    return _opened(section, task, splits, _parts(section, splits), prepared, {})


def sources_together(
    sections: Sequence[Any],
    task: str,
    given: Sequence[Mapping[str, Split]],
    more: Sequence[Mapping[str, Any]],
) -> list[dict[str, Source]]:
    """Turns the arrays of several sections into sources that are prepared alike: by the training rows of all.

    Args:
      sections: as for `sources_of`.
      task: its name.
      given: the arrays of each section, by split.
      more: of each section, what else belongs to `prepared`.

    Raises:
      DataError: as for `open_arrays`, or the examples of the sections have different shapes.
    """
    checked = [{name: check_split(split, task) for name, split in splits.items()} for splits in given]
    parts = [_parts(section, splits) for section, splits in zip(sections, checked, strict=True)]
    checks.check_alike([splits["train"] for splits in checked])
    learned, told = _learn(sections[0], task, checked, parts)
    opened = []
    for section, splits, rows, extra in zip(sections, checked, parts, more, strict=True):
        opened.append(_opened(section, task, splits, rows, learned | dict(extra), told))
        told = {}  # of all of them, and said once
    return opened


def _opened(
    section: Any,
    task: str,
    splits: Mapping[str, Split],
    parts: Mapping[str, tuple[str, _Rows]],
    learned: Mapping[str, Any],
    told: Mapping[str, list[str]],
) -> dict[str, Source]:
    for split in splits.values():
        checks.check_fits(split, learned, splits.get("train"))
    checks.check_classes(task, section, learned, splits)
    opened = {}
    for name, (of, rows) in parts.items():
        more = dict(told) if name == "train" else {}
        more["notes"] = [*(_notes(splits[of]) if of == name else []), *more.get("notes", ())]
        opened[name] = _source(splits[of], task, rows, learned, more)
    return opened


def open_arrays_together(sections: Sequence[Arrays], task: str) -> list[dict[str, Source]]:
    """Opens several sections whose examples are prepared alike; see `open_arrays` and `jaxprop.Reader`."""
    given = [_load_splits(section, used_only=False) for section in sections]
    return sources_together(sections, task, given, [{}] * len(sections))


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
    section: Any,
    task: str,
    given: Sequence[Mapping[str, Split]],
    parts: Sequence[Mapping[str, tuple[str, _Rows]]],
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What all later data are prepared by, as JSON values: `Source.prepared`; and what `info` tells of it."""
    trains = [splits["train"] for splits in given]
    first, labels = trains[0], np.concatenate([np.asarray(train.labels.values) for train in trains])
    shapes = {"inputs": list(first.inputs.values.shape[1:]), "labels": list(first.labels.values.shape[1:])}
    outputs = checks.outputs_of(section, task, Named(first.labels.name, labels))
    learned: dict[str, Any] = {"shapes": shapes, **outputs}
    stated = getattr(section, "classes", None) is not None
    notes = [] if stated or task != "classify" else checks.empty_classes(Named(first.labels.name, labels))

    def chunks(limit: int | None = None) -> Iterator[np.ndarray]:
        for train, rows in zip(trains, parts, strict=True):
            yield from _rows_of(train.inputs.values, rows["train"][1], limit)

    if section.standardize:
        return learned | {"scale": as_json(scale_of(chunks()))}, {"notes": notes}
    learned |= checks.vocabulary_of([split for splits in given for split in splits.values()])
    far = far_from_unit(scale_of(chunks(_SCALE_VALUES)), first.inputs.name, "data.standardize: true")
    if far is not None and "vocabulary" in learned:
        return learned, {"notes": notes, IF_NUMBERS: [far]}
    return learned, {"notes": notes + ([] if far is None else [far])}


def _rows_of(values: np.ndarray, rows: _Rows, limit: int | None = None) -> Iterator[np.ndarray]:
    """The chosen rows of an array in parts; no more than evenly spaced ones of `limit` values where one is given."""
    chosen = np.arange(len(values))[rows]
    width = max(1, values.size // len(values))
    if limit is not None and len(chosen) * width > limit:
        chosen = chosen[:: -(-len(chosen) * width // limit)]
    step = max(1, checks.CHECK_VALUES // width)
    for start in range(0, len(chosen), step):
        yield np.asarray(values[chosen[start : start + step]])


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


def _source(split: Split, task: str, rows: _Rows, learned: Mapping[str, Any], said: Mapping[str, list[str]]) -> Source:
    inputs, labels = split.inputs.values, np.asarray(split.labels.values)
    optional = [getattr(split, name) for name in OPTIONAL]
    check = unchanged([inputs, split.labels.values, *(array.values for array in optional if array is not None)])
    if isinstance(inputs, np.ndarray):  # indexing a memmap gives another memmap, so batches are taken of plain arrays
        inputs = np.asarray(inputs)
    chosen = np.arange(len(inputs))[rows]
    extra = {name: array.values for name in OPTIONAL if (array := getattr(split, name)) is not None}
    label_dtype = np.int32 if task == "classify" else np.float32
    if task == "regress" and labels.ndim == 1:
        labels = labels[:, None]  # outputs are [B, 1]; against [B] a difference would broadcast to [B, B]
    cast, as_floats = _caster(learned), "scale" not in learned and "vocabulary" not in learned

    def kept(indices: np.ndarray) -> dict[str, np.ndarray]:
        at = chosen[indices]
        check()
        taken = {
            "inputs": inputs[at],
            "labels": labels[at].astype(label_dtype, copy=False),
            **{name: values[at].astype(np.float32, copy=False) for name, values in extra.items()},
        }
        check()
        return taken

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = kept(indices)
        return batch | {"inputs": cast(batch["inputs"])}

    told = ("classes", "class_names", "targets", "target_names", "vocabulary")
    info = {name: learned[name] for name in told if name in learned}
    return Source(
        length=len(chosen),
        take=take,
        info=info | {name: told for name, told in said.items() if told},
        fingerprint=_digest(split, task, rows, learned, extra),
        prepared=learned,
        labels=lambda: labels[rows].astype(label_dtype, copy=False),
        names=lambda indices: [f"{split.inputs.name.removesuffix(':inputs')}[{row}]" for row in chosen[indices]],
        stored=as_bytes(kept, take) if as_floats and inputs.dtype == np.uint8 else None,
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
      A source of inputs alone; `info["names"]` are such as `new.npy:3`, counted from 0, and `info["bad"]` holds the
      examples that cannot be predicted.

    Raises:
      DataError: the only file is missing or unreadable, or its examples do not fit the run.
    """
    del section, task
    return inputs_of(_inputs_of, paths, prepared)


def inputs_of(read: Callable[[str], Named], paths: Sequence[str], prepared: Mapping[str, Any]) -> Source:
    """Reads and checks inputs without labels and turns them into a source, whatever they are read from.

    Args:
      read: returns the array of inputs of a path.
      paths: what to read.
      prepared: what the run has learned of its training data.
    """
    bad, parts, names = BadInputs(paths), [], []
    for path in paths:
        with bad.reading(path):
            part = read(path)
            _check_inputs(part, prepared)
            wrong = dict(checks.bad_examples(part.values, prepared.get("vocabulary")))
            rows = np.setdiff1d(np.arange(len(part.values)), list(wrong))
            for row, why in wrong.items():
                bad.add(f"{path}:{row}", why, before=int(np.searchsorted(rows, row)))
            bad.good += len(rows)
            parts.append((part.values, rows))
            names += [f"{path}:{row}" for row in rows.tolist()]
    cast, ends = _caster(prepared), np.cumsum([len(rows) for _, rows in parts])

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        of = np.searchsorted(ends, indices, side="right")
        shape = (len(indices), *prepared["shapes"]["inputs"])
        taken = np.empty(shape, np.result_type(*(values.dtype for values, _ in parts)))
        for part in np.unique(of).tolist():
            values, rows = parts[part]
            taken[of == part] = values[rows[indices[of == part] - int(ends[part]) + len(rows)]]
        return {"inputs": cast(taken)}

    return Source(
        length=bad.good,
        take=take,
        info={"names": names, "bad": bad.found},
        fingerprint=fingerprint("arrays to predict", *(_content(values) for values, _ in parts)),
        prepared=prepared,
    )


def _check_inputs(part: Named, prepared: Mapping[str, Any]) -> None:
    name, values = part
    wanted = tuple(prepared["shapes"]["inputs"])
    if values.ndim == 0 or values.shape[1:] != wanted:
        fix = f"; for one example, save it as values[None], of shape {(1, *wanted)}" if values.shape == wanted else ""
        raise DataError(f"{name}: holds examples of shape {values.shape[1:]}, but the run takes {wanted}{fix}")
    if not values.size or values.dtype.kind not in NUMBERS:
        what = "is empty" if not values.size else f"expected real numbers, got dtype {values.dtype}"
        raise DataError(f"{name}: {what}")
    if "vocabulary" in prepared:
        checks.check_integers(part)


def _inputs_of(path: str) -> Named:
    if path == "-":
        raise DataError("-: arrays are not read from standard input; name a .npz that holds inputs, or a .npy")
    if Path(path).expanduser().exists() and (why := unfit(path, "arrays")) is not None:
        raise DataError(f"{path}: {why}")
    return load_npz(path, ("inputs",))[0]["inputs"] if kind_of(path) == ".npz" else load_npy(path)


ARRAYS = Reader(open=open_arrays, inputs=array_inputs, together=open_arrays_together)
