"""Your own text from files: windows of tokens that predict the next one, or labelled texts of any length."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprop.config.schema.data import TextFiles
from jaxprop.data import records
from jaxprop.data.bad import BadRecords
from jaxprop.data.packing import Piece
from jaxprop.data.piped_texts import Form
from jaxprop.data.texts import LANGUAGE, Texts, documents_of, inputs_of, sources_of
from jaxprop.errors import ConfigError, DataError, UsageError
from jaxprop.types import Reader, Source

CONTINUES = "a language model continues a text; use 'jaxprop generate RUN \"prompt\"'"


def open_text(section: TextFiles, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens text from files, folders and globs.

    For `language`, documents are packed: a plain file is one document, and so is each record of a JSONL, CSV, TSV or
    Parquet file. For other tasks each record is one text with its label; a plain file is one text, whose class is the
    folder that it lies in.

    Args:
      section: the config's `data` section; paths are from the working directory.
      task: the task's name.
      prepared: what an earlier run has stored: its tokenizer, and its classes.

    Returns:
      `train`, and `validation` and `test` where the section has them; without `train` where `prepared` is given. For
      `language`, windows as of `jaxprop.data.packing.windows_of`. Otherwise inputs int32 `[B, T]`, padded at the right
      with 0; `input_mask` float32 `[B, T]`, 1 where there is text; and labels.

    Raises:
      ConfigError: the section lacks a label.
      DataError: files are missing, or hold more bad records than are allowed.
    """
    columns = (section.label,) if isinstance(section.label, str) else section.label
    if task != LANGUAGE and not columns and (columns is not None or task != "classify"):
        raise ConfigError(f"data.label: the task {task} needs the name of the label's column, such as label: score")
    texts = Texts(
        documents=lambda path, key, bad: _documents(path, key, section, bad),
        labelled=lambda path, key, columns, bad: _records(path, key, section, columns, bad),
        text=section.text,
        columns=columns,
        max_bad_fraction=section.max_bad_fraction,
    )
    paths = _paths(section, prepared)
    for split, path in paths.items():
        records.find(path, f"data.{split}")  # before anything needs a package to be read
    return sources_of(section, task, prepared, paths, texts)


def _documents(path: str, key: str, section: TextFiles, bad: BadRecords) -> Iterator[Piece]:
    """The documents of a path, in pieces; those that cannot be used are left out."""
    files = records.find(path, key).files
    for file in files:
        if records.kind_of(file) != "text":
            yield from documents_of(records.read(file, [section.text], bad, section.delimiter), section.text, bad)
            continue
        if len(files) > 1 and not file.stat().st_size:
            continue  # such as an __init__.py; by itself it would be an error
        why = records.why_not_text(file)
        if why is not None:
            bad.add(str(file), why)
            continue
        before: str | None = None
        for block in records.whole(file):
            if before is not None:
                yield Piece(before, last=False)
            before = block
        yield Piece(before or "")


def _records(
    path: str, key: str, section: TextFiles, columns: Sequence[str] | None, bad: BadRecords
) -> Iterator[records.Record]:
    found = records.find(path, key)
    for file in found.files:
        yield from _with_labels(file, found.root, section, columns, bad, key)


def _with_labels(
    file: Path, root: Path, section: TextFiles, columns: Sequence[str] | None, bad: BadRecords, key: str
) -> Iterator[records.Record]:
    plain = records.kind_of(file) == "text"
    if not plain and columns is None:
        raise ConfigError(f"data.label: {file} has columns, so name the one of the label, such as label: sentiment")
    if not plain and columns is not None:
        yield from records.read(file, [section.text, *columns], bad, section.delimiter)
        return
    inside = file.relative_to(root).parts
    if columns is not None or len(inside) < 2:
        fix = "a folder with one subfolder a class, or a JSONL, CSV, TSV or Parquet file with data.label"
        raise DataError(f"{key}: {file} is plain text, which holds no labels; expected {fix}")
    yield from _whole_file(file, bad, inside[0])


def _whole_file(file: Path, bad: BadRecords, *values: Any) -> Iterator[records.Record]:
    """A plain file as one record."""
    try:
        why = records.why_not_text(file)
    except DataError:  # empty
        why = "is empty"
    if why is not None:
        bad.add(str(file), why)
        return
    yield records.Record(str(file), ("".join(records.whole(file)), *values))


def _paths(section: TextFiles, prepared: Mapping[str, Any] | None) -> dict[str, str]:
    """The paths of the splits that are to be read. With a stored run the training data are only needed for its part."""
    named = {split: getattr(section, split) for split in ("train", "validation", "test")}
    paths = {split: path for split, path in named.items() if isinstance(path, str)}
    if prepared is not None:
        gone = not isinstance(section.validation, float) or not _exists(section.train)
        return {split: path for split, path in paths.items() if split != "train" or not gone}
    return paths


def _exists(path: str) -> bool:
    try:
        return bool(records.find(path, "data.train").files)
    except DataError:
        return False


# -- what is predicted ----------------------------------------------------------------------------


def text_inputs(
    section: TextFiles, task: str, prepared: Mapping[str, Any], paths: Sequence[str]
) -> Source | Iterator[Source]:
    """Opens texts without labels, to predict.

    Args:
      section: the run's `data` section; `text` names the column, in files that have columns.
      task: the task's name.
      prepared: what the run has stored.
      paths: files; folders and globs, whose plain files are one text each; `-` for standard input. A plain file that is
        named by itself, and standard input, hold one text a line. What has a space in it and is no file is a text. For
        a run whose texts stood in a column, standard input may also be JSONL or CSV with that column.

    Returns:
      A source as of `open_text`, without labels. `info["names"]` holds `file:line` of each text, and `info["bad"]` the
      records that cannot be used. With standard input among the paths, sources of lines as they come.

    Raises:
      UsageError: the task predicts no texts.
      DataError: the only file is missing or cannot be read, or there is no text.
    """
    if task == LANGUAGE:
        raise UsageError(CONTINUES)
    return inputs_of(
        paths,
        prepared,
        limit=section.max_length,
        column=section.text,
        read=lambda path, bad: _typed(path) or unlabelled(path, section.text, section.delimiter, bad),
        form=None if section.label is None else Form(section.text, section.delimiter),
    )


def _typed(path: str) -> list[records.Record]:
    """A text that stands in the place of a path; none where that is, or looks like, the name of a file."""
    named = os.path.lexists(path) or glob.has_magic(path) or path.lower().endswith(records.SUFFIXES)
    return [] if named or not any(mark.isspace() for mark in path) else [records.Record(path, (path,))]


def unlabelled(path: str, column: str, delimiter: str | None, bad: BadRecords) -> Iterator[records.Record]:
    """Yields the texts of a path to predict, each as a record.

    Args:
      path: as of `text_inputs`.
      column: of the text, in files that have columns.
      delimiter: between the columns of a CSV file.
      bad: takes what cannot be read.
    """
    alone = Path(path).expanduser().is_file()
    for file in records.find(path, "input").files:
        if records.kind_of(file) == "text" and not alone:
            yield from _whole_file(file, bad)
        else:
            yield from records.read(file, [column], bad, delimiter)


TEXT = Reader(open=open_text, inputs=text_inputs)
