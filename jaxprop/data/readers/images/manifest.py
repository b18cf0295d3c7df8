"""Images listed in a CSV, TSV or JSONL file, a line each with a path and a label."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.readers.images.decode import UnreadableError
from jaxprop.data.readers.images.records import Columns, Records, read_within
from jaxprop.data.rows import DELIMITERS, SURROGATE, csv_rows, json_rows, ragged
from jaxprop.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path", "filepath", "file_path", "img")
LABEL_COLUMNS = ("label", "class", "target", "category", "labels", "class_name", "y")
_MAX_HEADER = 2**20
_MAX_FILE = 2**30


class _Row(NamedTuple):
    line: int
    image: Any
    label: Any
    problem: str | None = None


def read_manifest(path: str, columns: Columns, *, labelled: bool = True) -> Records:
    """Reads the list; the images are read one by one when they are used.

    Args:
      path: the file. The first line of a CSV or TSV names the columns.
      columns: which are used, and the folder that the paths are relative to.
      labelled: whether there has to be a column of labels.

    Returns:
      The records, in the order of the lines.

    Raises:
      DataError: the file cannot be read, is empty, or has no such columns.
    """
    file = Path(path).expanduser()
    if file.stat().st_size > _MAX_FILE:
        raise DataError(f"{path}: has more than the {_MAX_FILE // 2**20} MiB that are read of a list; split it")
    reader = _json_rows if file.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows
    with file.open("rb") as content:
        rows = list(reader(path, content, columns, labelled))
    if not rows:
        raise DataError(f"{path}: lists no images; it needs a line for each, with its path and its label")
    root = (file.parent if columns.root is None else Path(columns.root).expanduser()).resolve()
    names = [row.image if isinstance(row.image, str) else "" for row in rows]
    there = [(name, root / name) for name in names if _is_inside(name) and (root / name).is_file()]

    def read(index: int) -> bytes:
        if not names[index]:
            raise UnreadableError("names no image")
        try:
            return read_within(root, names[index])
        except UnreadableError as error:
            raise UnreadableError(f"the image {names[index]} {error}") from error

    return Records(
        length=len(rows),
        read=read,
        name=lambda index: f"{path}:{rows[index].line}",
        labels=[row.label for row in rows] if labelled else None,
        digest=fingerprint("manifest", fingerprint_of_files([(file.name, file)]), fingerprint_of_files(there)),
        problems={index: row.problem for index, row in enumerate(rows) if row.problem is not None},
    )


def find_column(
    path: str, given: str | None, names: Sequence[str], usual: Sequence[str], key: str, *, to_predict: bool = False
) -> str:
    """Returns the name of a column: the one that is given, or the one that is usual.

    Args:
      path: the file, for messages.
      given: what the configuration says.
      names: the columns there are.
      usual: names to look for where nothing is given, in lower case.
      key: the key that names the column.
      to_predict: whether images are to be predicted, so that the configuration stays as it is.

    Raises:
      DataError: there is none, or more than one may be meant.

    Example:
      >>> find_column("a.csv", None, ["File", "Class"], IMAGE_COLUMNS, "image_column")
      'File'
    """
    held = ", ".join(names) or "none"
    if given is not None:
        if given not in names:
            raise DataError(f"{path}: has no column {given!r}{did_you_mean(given, names)} (columns: {held})")
        return given
    found = [name for name in names if name.lower() in usual]
    if len(found) != 1:
        what = "more than one" if found else "no"
        if to_predict:
            raise DataError(
                f"{path}: has {what} column with the paths of images, which would be called {', '.join(usual[:3])} or "
                f"alike (columns: {held}); rename the column that has them, or name image files"
            )
        meant = "is it" if len(found) < 2 else "which is it"
        example = found[0] if found else names[0] if names else usual[0]
        raise DataError(
            f"{path}: has {what} column that is called {', '.join(usual[:3])} or alike (columns: {held}); {meant}: set "
            f"data.{key}: {example}"
        )
    return found[0]


def _is_inside(name: str) -> bool:
    pure = PurePath(name)
    return bool(name) and "\0" not in name and not pure.is_absolute() and ".." not in pure.parts


def _csv_rows(path: str, content: BinaryIO, columns: Columns, labelled: bool) -> Iterator[_Row]:
    head = content.readline(_MAX_HEADER).decode("utf-8-sig", errors="replace")
    delimiter = max(DELIMITERS, key=head.count)
    content.seek(0)
    header: list[str] | None = None
    for line, row, problem in csv_rows(content, path, delimiter):
        if header is None:
            if problem is not None:
                raise DataError(f"{path}:{line}: the header {problem}")
            header, image, label = row, *_places(path, [name.strip() for name in row], columns, labelled)
            continue
        problem = problem or ragged(row, header, delimiter)
        if problem is not None:
            yield _Row(line, None, None, problem)
        else:
            yield _Row(line, row[image].strip(), None if label is None else row[label].strip())


def _places(path: str, header: Sequence[str], columns: Columns, labelled: bool) -> tuple[int, int | None]:
    if labelled and len(header) == 1:
        raise DataError(
            f"{path}: has only one column, {header[0]!r}; put the path and the label of each image into two, separated "
            "by a comma"
        )
    image = header.index(
        find_column(path, columns.image, header, IMAGE_COLUMNS, "image_column", to_predict=not labelled)
    )
    if not labelled:
        return image, None
    return image, header.index(find_column(path, columns.label, header, LABEL_COLUMNS, "label_column"))


def _json_rows(path: str, content: BinaryIO, columns: Columns, labelled: bool) -> Iterator[_Row]:
    image = label = None
    for line, row, problem in json_rows(content, path):
        if problem is not None:
            yield _Row(line, None, None, problem)
            continue
        if image is None:
            image = find_column(
                f"{path}:{line}", columns.image, list(row), IMAGE_COLUMNS, "image_column", to_predict=not labelled
            )
            if labelled:
                label = find_column(f"{path}:{line}", columns.label, list(row), LABEL_COLUMNS, "label_column")
        named = row.get(image)
        if not isinstance(named, str) or not named or SURROGATE.search(named):
            yield _Row(line, None, None, f"its {image!r} is no path")
        else:
            yield _Row(line, named, None if label is None else row.get(label))


def usual_manifest(folder: Path) -> Path | None:
    """Returns the list that lies in a folder beside its images, as tools for data sets write it; None without one."""
    names = [f"{stem}{suffix}" for stem in ("metadata", "labels") for suffix in SUFFIXES]
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)
