"""Data sets of the library `datasets` on disk, and Arrow and Parquet files: text, images and numbers by column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from jaxprop.config.schema.data import HuggingFace
from jaxprop.data.bad import BadRecords
from jaxprop.data.fingerprint import fingerprint_of_files
from jaxprop.data.packing import Piece
from jaxprop.data.piped_texts import Form
from jaxprop.data.readers import arrays
from jaxprop.data.readers.array_checks import Split
from jaxprop.data.readers.images import tables
from jaxprop.data.readers.images.labels import Labels, encode, joined, names_of
from jaxprop.data.readers.images.layouts import of_split
from jaxprop.data.readers.images.open import Unread, image_inputs, open_records, records_together
from jaxprop.data.readers.images.records import Columns, Records
from jaxprop.data.readers.numpy_files import Named
from jaxprop.data.readers.shard_arrays import ShardArray
from jaxprop.data.readers.shards import SUFFIXES, Shards, is_shard, open_shards
from jaxprop.data.readers.text import CONTINUES, unlabelled
from jaxprop.data.records import Record, of_shards
from jaxprop.data.texts import LANGUAGE, Texts, documents_of, inputs_of, sources_of
from jaxprop.errors import DataError, UsageError, did_you_mean
from jaxprop.types import Reader, Source

_SPLITS = ("train", "validation", "test")


def open_huggingface(section: HuggingFace, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens rows of Arrow or Parquet files, without the library `datasets`.

    A column of text becomes tokens, and a column of images what the reader `images` makes of them. Columns of numbers
    become the features of an example, in the order they are named in; a single column of lists becomes an array. Text
    is encoded once; images and numbers are read when a batch is taken: from Arrow files, which are mapped into memory,
    or from the groups of rows of Parquet files.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `classify`, `multilabel` or `regress`; or `language`, of text.
      prepared: of an earlier run.

    Returns:
      `train`, and `validation` and `test` where the section names them.

    Raises:
      DataError: a file is missing, damaged, or has no such columns.
      MissingExtraError: pyarrow is not installed.
    """
    found = _found(section, task, there=prepared is not None)
    if found.kind == "text":
        return _text(section, task, prepared, found.paths, found.shards)
    if found.kind == "images":
        return open_records(section, task, prepared, found.unread(section))
    return _numbers([section], task, prepared, [found])[0]


def open_together(sections: Sequence[HuggingFace], task: str) -> list[dict[str, Source]]:
    """Opens several sections whose images or numbers are prepared alike; see `open_huggingface` and `jaxprop.Reader`.

    Raises:
      DataError: as for `open_huggingface`, or the inputs of the sections are of different kinds.
    """
    found = [_found(section, task) for section in sections]
    kinds = {one.kind for one in found}
    if len(kinds) > 1:
        raise DataError(
            f"data.sources: their inputs are {' and '.join(sorted(kinds))}; sources that are mixed "
            "need inputs of one kind"
        )
    if kinds == {"images"}:
        return records_together(
            sections, task, [one.unread(section) for section, one in zip(sections, found, strict=True)]
        )
    if kinds == {"numbers"}:
        return _numbers(sections, task, None, found)
    return [open_huggingface(section, task) for section in sections]  # a mixture compares their tokenizers


class _Found(NamedTuple):
    """The files that a section names.

    Args:
      kind: of the inputs: `text`, `images` or `numbers`.
      paths: of each split, as the section has them.
      shards: the files of each, opened.
    """

    kind: str
    paths: dict[str, str]
    shards: dict[str, Shards]

    def unread(self, section: HuggingFace) -> dict[str, Unread]:
        """The splits as images."""
        columns = Columns(_inputs(section)[0], section.label)
        return {split: _unread(self.paths[split], shards, columns) for split, shards in self.shards.items()}


def _found(section: HuggingFace, task: str, *, there: bool = False) -> _Found:
    """Opens the files of a section; training data that are gone are left out where `there` says that a run has them."""
    paths = {split: getattr(section, split) for split in _SPLITS}
    given = {split: path for split, path in paths.items() if isinstance(path, str)}
    if there and not Path(section.train).expanduser().exists():
        del given["train"]
    files = {split: _files(path, split) for split, path in given.items()}  # before anything needs pyarrow
    opened = {split: open_shards(given[split], held) for split, held in files.items()}
    labels = () if task == LANGUAGE else (section.label,)
    for split, shards in opened.items():
        _check_columns(given[split], shards, (*_inputs(section), *labels))
    kinds = {_kind(given[split], section, shards) for split, shards in opened.items()}
    if task == LANGUAGE and kinds != {"text"}:
        raise DataError(
            f"data.inputs: {', '.join(_inputs(section))} holds no text, which task.name: language learns from; name a "
            "column of text"
        )
    return _Found(next(iter(kinds)) if len(kinds) == 1 else "numbers", given, opened)


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
    if _holds_splits(place):
        folders = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
        if split not in folders:
            raise DataError(
                f"{path}: has no split {split!r} (it holds: {', '.join(folders) or 'none'}); name another folder"
            )
        place /= split
    found = _shards_in(place, split)
    if not found:
        raise DataError(
            f"{path}: holds no {' or '.join(SUFFIXES)} files for the split {split}; name a folder that "
            "save_to_disk has written, or that holds such files"
        )
    gone = next((file for file in found if not file.is_file()), None)
    if gone is not None:
        raise DataError(f"{gone}: no such file, which {place / 'state.json'} lists; save the data set again")
    return found


def _shards_in(place: Path, split: str) -> list[Path]:
    if _holds_splits(place):
        return _shards_in(place / split, split) if (place / split).is_dir() else []
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
    return _listed(place) or of_split(files, split)


def _holds_splits(place: Path) -> bool:
    return (place / "dataset_dict.json").is_file()


def _listed(place: Path) -> list[Path]:
    state = place / "state.json"
    if not state.is_file():
        return []
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{state}: is no list of the files of a data set ({type(error).__name__}); save the data set again"
        ) from error
    if not all(isinstance(name, str) and PurePath(name).name == name and name not in ("", "..") for name in names):
        raise DataError(f"{state}: names files outside its folder, which no path may; save the data set again")
    return [place / name for name in names]


def training_rows(path: str) -> Shards:
    """Opens the training rows at a path, whatever their columns."""
    return open_shards(path, _files(path, "train"))


def _check_columns(path: str, shards: Shards, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in shards.columns:
            raise DataError(
                f"{path}: has no column {name!r}{did_you_mean(name, shards.columns)} "
                f"(columns: {', '.join(shards.columns)})"
            )


def _kind(path: str, section: HuggingFace, shards: Shards) -> str:
    """What the inputs are: `text`, `images` or `numbers`."""
    inputs = _inputs(section)
    for kind, holds in (("text", shards.holds_text), ("images", shards.holds_bytes)):
        held = [name for name in inputs if holds(name)]
        if held and len(inputs) > 1:
            fix = "; for categories among numbers, use the reader table" if kind == "text" else ""
            raise DataError(
                f"{path}: the column {held[0]!r} holds {kind}, of which one column alone makes the inputs; set "
                f"data.inputs: {held[0]}{fix}"
            )
        if held:
            return kind
    return "numbers"


# -- text -----------------------------------------------------------------------------------------


def _text(
    section: HuggingFace,
    task: str,
    prepared: Mapping[str, Any] | None,
    paths: Mapping[str, str],
    opened: Mapping[str, Shards],
) -> dict[str, Source]:
    column = _inputs(section)[0]
    of = {f"data.{split}": shards for split, shards in opened.items()}  # a folder may hold several splits
    if prepared is not None and not isinstance(section.validation, float):
        paths = {split: path for split, path in paths.items() if split != "train"}

    def documents(path: str, key: str, bad: BadRecords) -> Iterator[Piece]:
        return documents_of(of_shards(of[key], path, [column], bad), column, bad)

    def labelled(path: str, key: str, columns: tuple[str, ...] | None, bad: BadRecords) -> Iterator[Record]:
        return of_shards(of[key], path, [column, *(columns or ())], bad)

    order = next((names for shards in opened.values() if (names := shards.class_names(section.label))), [])
    texts = Texts(documents, labelled, column, (section.label,), section.max_bad_fraction, order)
    return sources_of(section, task, prepared, paths, texts)


# -- numbers --------------------------------------------------------------------------------------


def _numbers(
    sections: Sequence[HuggingFace], task: str, prepared: Mapping[str, Any] | None, found: Sequence[_Found]
) -> list[dict[str, Source]]:
    records = [
        {split: _label_records(one.paths[split], shards, section.label) for split, shards in one.shards.items()}
        for section, one in zip(sections, found, strict=True)
    ]
    names = [] if prepared is None else list(prepared.get("class_names", ()))
    if prepared is None:
        names = names_of(task, found[0].paths["train"], joined([one["train"] for one in records]))
    given: list[dict[str, Split]] = []
    notes: list[dict[str, list[str]]] = []
    for section, one, held in zip(sections, found, records, strict=True):
        given.append({})
        notes.append({})
        for split, shards in one.shards.items():
            bad = BadRecords(section.max_bad_fraction, unit="row")
            labels = encode(task, held[split], names, bad)
            notes[-1][split] = bad.notes(shards.length)
            given[-1][split] = _split(one.paths[split], shards, section, labels)
    more = [{"target_names": [section.label]} if task == "regress" else {"class_names": names} for section in sections]
    opened = (
        arrays.sources_together(sections, task, given, more)
        if prepared is None
        else [arrays.sources_of(sections[0], task, prepared, given[0], more[0])]
    )
    return [
        {name: _with_notes(source, told.get(name, [])) for name, source in sources.items()}
        for sources, told in zip(opened, notes, strict=True)
    ]


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
    inputs = ShardArray(path, shards, _inputs(section), section.cache_mib * 2**20 if section.engine == "numpy" else 0)
    if len(labels.rows) < len(inputs):
        inputs = inputs.chosen(labels.rows)
    return Split(
        Named(f"{path}:{','.join(_inputs(section))}", inputs),
        Named(f"{path}:{section.label}", labels.values),
    )


def _with_notes(source: Source, notes: Sequence[str]) -> Source:
    if not notes:
        return source
    return source._replace(info={**source.info, "notes": [*source.info.get("notes", ()), *notes]})


def huggingface_inputs(
    section: HuggingFace, task: str, prepared: Mapping[str, Any], paths: Sequence[str]
) -> Source | Iterator[Source]:
    """Opens rows without labels, to predict: Arrow and Parquet files, or files of images or text where inputs are such.

    Args:
      section: the run's `data` section.
      task: its task.
      prepared: what the run has learned of its training data.
      paths: files and folders.
    """
    if task == LANGUAGE:
        raise UsageError(CONTINUES)
    if "tokenizer" in prepared:
        return inputs_of(
            paths,
            prepared,
            limit=section.max_length,
            column=_inputs(section)[0],
            read=lambda path, bad: _texts_of(section, path, bad),
            form=Form(_inputs(section)[0]),
        )
    if "shapes" not in prepared:
        return image_inputs(section, task, prepared, paths)

    def numbers(path: str) -> Named:
        shards = open_shards(path, _files(path, "test"))
        _check_columns(path, shards, _inputs(section))
        return Named(path, ShardArray(path, shards, _inputs(section)))

    return arrays.inputs_of(numbers, paths, prepared)


def _texts_of(section: HuggingFace, path: str, bad: BadRecords) -> Iterator[Record]:
    """The texts of a path to predict: rows, or what the reader `text` takes."""
    column, place = _inputs(section)[0], Path(path).expanduser()
    if is_shard(place) or (place.is_dir() and (_holds_splits(place) or _shards_in(place, "test"))):
        yield from of_shards(open_shards(path, _files(path, "test")), path, [column], bad)
    else:
        yield from unlabelled(path, column, None, bad)


HUGGINGFACE = Reader(open=open_huggingface, inputs=huggingface_inputs, together=open_together)
