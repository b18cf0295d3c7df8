"""Data sets of the library `datasets` on disk, and Arrow and Parquet files: rows by index, columns by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from jaxprop.config.schema.data import HuggingFace
from jaxprop.data.bad import BadRecords
from jaxprop.data.fingerprint import fingerprint_of_files
from jaxprop.data.readers import arrays
from jaxprop.data.readers.array_checks import Split
from jaxprop.data.readers.images import tables
from jaxprop.data.readers.images.labels import Labels, encode, names_of
from jaxprop.data.readers.images.layouts import of_split
from jaxprop.data.readers.images.open import Unread, image_inputs, open_records
from jaxprop.data.readers.images.records import Columns, Records
from jaxprop.data.readers.numpy_files import Named
from jaxprop.data.readers.shards import Shards, open_shards
from jaxprop.errors import DataError, did_you_mean
from jaxprop.types import Reader, Source

_SUFFIXES = (".arrow", ".parquet")
_SPLITS = ("train", "validation", "test")


def open_huggingface(section: HuggingFace, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens rows of Arrow or Parquet files, without the library `datasets`.

    A column of images becomes what the reader `images` makes of them. Columns of numbers become the features of an
    example, in the order they are named in; a single column of lists becomes an array. Columns of text are left to the
    reader `text`.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `classify`, `multilabel` or `regress`.
      prepared: of an earlier run.

    Returns:
      `train`, and `validation` and `test` where the section names them.

    Raises:
      DataError: a file is missing, damaged, or has no such columns.
      MissingExtraError: pyarrow is not installed.
    """
    paths = {split: getattr(section, split) for split in _SPLITS}
    given = {split: path for split, path in paths.items() if isinstance(path, str)}
    if prepared is not None and not Path(section.train).expanduser().exists():
        del given["train"]
    opened = {split: open_shards(path, _files(path, split)) for split, path in given.items()}
    for split, shards in opened.items():
        _check_columns(given[split], shards, (*_inputs(section), section.label))
    if all(_holds_images(section, shards) for shards in opened.values()):
        columns = Columns(_inputs(section)[0], section.label)
        return open_records(
            section, task, prepared, {split: _unread(given[split], shards, columns) for split, shards in opened.items()}
        )
    return _numbers(section, task, prepared, given, opened)


def _unread(path: str, shards: Shards, columns: Columns) -> Unread:
    return Unread(path, lambda: tables.records_of(path, shards, columns))


def _inputs(section: HuggingFace) -> tuple[str, ...]:
    return (section.inputs,) if isinstance(section.inputs, str) else section.inputs


def _files(path: str, split: str) -> list[Path]:
    """The files of a split: one, those of a folder, or those that `save_to_disk` has listed."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder under {Path.cwd()}{did_you_mean(place.name, beside)}")
    if (place / "dataset_dict.json").is_file():
        folders = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
        if split not in folders:
            raise DataError(f"{path}: has no split {split!r} (it holds: {', '.join(folders)}); name another folder")
        place /= split
    listed = _listed(place)
    found = listed or of_split(sorted(f for f in place.iterdir() if f.suffix.lower() in _SUFFIXES), split)
    if not found:
        raise DataError(f"{path}: holds no {' or '.join(_SUFFIXES)} files for the split {split}")
    return found


def _listed(place: Path) -> list[Path]:
    state = place / "state.json"
    if not state.is_file():
        return []
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{state}: is no list of the files of a data set ({type(error).__name__})") from error
    if not all(isinstance(name, str) and PurePath(name).name == name and name not in ("", "..") for name in names):
        raise DataError(f"{state}: names files outside its folder, which no path may")
    return [place / name for name in names]


def _check_columns(path: str, shards: Shards, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in shards.columns:
            raise DataError(
                f"{path}: has no column {name!r}{did_you_mean(name, shards.columns)} "
                f"(columns: {', '.join(shards.columns)})"
            )


def _holds_images(section: HuggingFace, shards: Shards) -> bool:
    inputs = _inputs(section)
    text = [name for name in inputs if shards.holds_text(name)]
    if text:
        raise DataError(
            f"the column {text[0]!r} holds text, which the reader text takes from Parquet: "
            f"data: {{name: text, train: {shards.files[0].name}, text: {text[0]}}}"
        )
    images = [name for name in inputs if shards.holds_bytes(name)]
    if images and len(inputs) > 1:
        raise DataError(f"data.inputs: {images[0]!r} holds images, of which one column alone makes the inputs")
    return bool(images)


# -- numbers --------------------------------------------------------------------------------------


def _numbers(
    section: HuggingFace,
    task: str,
    prepared: Mapping[str, Any] | None,
    paths: Mapping[str, str],
    opened: Mapping[str, Shards],
) -> dict[str, Source]:
    names = [] if prepared is None else list(prepared.get("class_names", ()))
    splits: dict[str, Split] = {}
    notes: dict[str, list[str]] = {}
    for split, shards in opened.items():
        path = paths[split]
        records = _label_records(path, shards, section.label)
        if prepared is None and split == "train":
            names = names_of(task, path, records)
        bad = BadRecords(section.max_bad_fraction, unit="row")
        labels = encode(task, records, names, bad)
        notes[split] = bad.notes(shards.length)
        splits[split] = _split(path, shards, section, labels)
    more = {"target_names": [section.label]} if task == "regress" else {"class_names": names}
    sources = arrays.sources_of(section, task, prepared, splits, more)
    return {name: _with_notes(source, notes.get(name, [])) for name, source in sources.items()}


def _label_records(path: str, shards: Shards, label: str) -> Records:
    return Records(
        length=shards.length,
        read=lambda _: b"",
        name=lambda row: f"{path}[{row}]",
        labels=shards.values(label),
        digest=fingerprint_of_files([(file.name, file) for file in shards.files]),
        class_names=shards.class_names(label),
    )


def _split(path: str, shards: Shards, section: HuggingFace, labels: Labels) -> Split:
    inputs = _array(path, shards, _inputs(section))
    return Split(
        Named(
            f"{path}:{','.join(_inputs(section))}", inputs[labels.rows] if len(labels.rows) < len(inputs) else inputs
        ),
        Named(f"{path}:{section.label}", labels.values),
    )


def _array(path: str, shards: Shards, columns: Sequence[str]) -> np.ndarray:
    """The inputs as one array: a column of lists as it is, others side by side."""
    try:
        found = [np.asarray(shards.values(name)) for name in columns]
    except ValueError as error:  # lists of different lengths
        raise DataError(
            f"{path}: a column of {', '.join(columns)} holds lists of different lengths; pad them"
        ) from error
    for name, values in zip(columns, found, strict=True):
        if values.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: the column {name!r} holds values that are no numbers, or missing ones; use the reader table, "
                "which fills these in"
            )
    if len(found) == 1 and found[0].ndim > 1:
        return found[0]
    if any(values.ndim > 1 for values in found):
        raise DataError(f"{path}: a column of lists makes the inputs alone; name that column only in data.inputs")
    return np.stack(found, axis=1)


def _with_notes(source: Source, notes: Sequence[str]) -> Source:
    if not notes:
        return source
    return source._replace(info={**source.info, "notes": [*source.info.get("notes", ()), *notes]})


def huggingface_inputs(section: HuggingFace, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens rows without labels, to predict: Arrow and Parquet files, and image files where the inputs are images.

    Args:
      section: the run's `data` section.
      task: its task.
      prepared: what the run has learned of its training data.
      paths: files and folders.
    """
    if "shapes" not in prepared:
        return image_inputs(section, task, prepared, paths)

    def read(path: str) -> Named:
        shards = open_shards(path, _files(path, "test"))
        _check_columns(path, shards, _inputs(section))
        return Named(path, _array(path, shards, _inputs(section)))

    return arrays.inputs_of(read, paths, prepared)


HUGGINGFACE = Reader(open=open_huggingface, inputs=huggingface_inputs)
