"""What a file or a folder is, which reader reads it, and the line of YAML that names it."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jaxprop.untrusted.files import parse_json

TABLES = ("csv", "tsv", "jsonl", "parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TEXTS = (".txt", ".md", ".rst", ".text", ".py", ".html", ".xml", ".tex")
HEAD = 4096  # bytes of a file that are looked at
_LISTED = 2000  # entries of a folder that are looked at

# The first bytes of a file, its format. Of a zip archive and of text the name decides.
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"\x93NUMPY", "npy"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"fLaC", "recording"),
    (b"OggS", "recording"),
    (b"SQLite format 3", "sqlite"),
    (b"\x89HDF", "hdf5"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # a stream, as the library `datasets` writes it
    (b"\xd0\xcf\x11\xe0", "excel"),
    (b"\xff\xfe", "utf16"),
    (b"\xfe\xff", "utf16"),
    (b"\x00\x00\x08\x01", "idx"),
    (b"\x00\x00\x08\x03", "idx"),
    (b"\x00\x00\x08\x04", "idx"),
)
_ZIPPED = {".npz": "npz", ".xlsx": "excel", ".xlsm": "excel", ".ods": "excel"}
_BY_SUFFIX = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
# Of one JSON value, the start of one of COCO's lists, or all of them where the value is that short.
_COCO = re.compile(
    rb'"images"\s*:\s*\[\s*\{[^{}]*"file_name"|"annotations"\s*:\s*\[\s*\{[^{}]*"(bbox|category_id|image_id)"'
    rb'|"categories"\s*:\s*\[\s*\{[^{}]*"(supercategory|name)"'
)
_JSON_FILES = 20  # of a folder of images that are looked at
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Kind(NamedTuple):
    """A kind of data.

    Args:
      what: as a sentence names it, with its article.
      reader: the `data.name` that reads it; None if none does.
      keys: of the data section, with `PATH` for the path; without a reader, what to do instead.
    """

    what: str
    reader: str | None
    keys: str


# What is predicted by a run, by its `data.name`.
TAKES = {
    "table": "rows of a CSV, TSV, JSONL or Parquet file",
    "images": "image files, folders of them, and tables or archives of images",
    "arrays": ".npz files that hold inputs, and .npy files",
}

_TABLE_KEYS = "train: PATH, target: COLUMN"
KINDS: dict[str, Kind] = {
    "csv": Kind("a CSV file", "table", _TABLE_KEYS),
    "tsv": Kind("a TSV file", "table", _TABLE_KEYS),
    "jsonl": Kind("a JSONL file", "table", _TABLE_KEYS),
    "parquet": Kind("a Parquet file", "table", _TABLE_KEYS),
    "npz": Kind("a .npz file of NumPy", "arrays", "train: PATH"),
    "npy": Kind("a .npy file of NumPy", "arrays", "train_inputs: PATH, train_labels: LABELS.npy"),
    "text": Kind("a text file", "text", "train: PATH"),
    "texts": Kind("a folder of text files", "text", "train: PATH"),
    "images": Kind("a folder of images", "images", "train: PATH"),
    "coco": Kind("COCO JSON", "coco", "train: PATH"),
    "objects": Kind("a folder of images with COCO JSON", "coco", "train: FILE.json, images: PATH"),
    "recordings": Kind("a folder of audio files", "speech", "train: PATH"),
    "recording": Kind("a single audio file", None, "give the folder that holds it and its transcript"),
    "idx": Kind("an IDX file, as MNIST has them", "images", "train: PATH"),
    "tar": Kind("a tar archive", "images", "train: PATH"),
    "arrow": Kind("an Arrow file", "huggingface", "train: PATH, inputs: COLUMN, label: COLUMN"),
    "dataset": Kind("a data set of Arrow files", "huggingface", "train: PATH, inputs: COLUMN, label: COLUMN"),
    "image": Kind("a single image", None, "give the folder that holds one folder of images for each class"),
    "json": Kind("one JSON value", None, "write one object a line (JSONL), as with: jq -c '.[]' IN > OUT.jsonl"),
    "excel": Kind("a workbook of a spreadsheet program", None, "save the sheet as CSV (UTF-8)"),
    "sqlite": Kind("an SQLite database", None, "export the table as CSV"),
    "hdf5": Kind("an HDF5 file", None, "save its arrays with np.savez(FILE.npz, inputs=..., labels=...)"),
    "pickle": Kind("a pickle", None, "save arrays with np.savez, or a table as Parquet: pickles are never opened"),
    "gzip": Kind("compressed with gzip", None, "unpack it with gunzip"),
    "bzip2": Kind("compressed with bzip2", None, "unpack it with bunzip2"),
    "xz": Kind("compressed with xz", None, "unpack it with unxz"),
    "zstd": Kind("compressed with zstd", None, "unpack it with unzstd"),
    "zip": Kind("a zip archive", None, "unpack it with unzip"),
    "utf16": Kind("UTF-16 text", None, "save it as UTF-8"),
    "tables": Kind("a folder of tables", None, "name one of its files"),
    "empty": Kind("empty", None, "give a file or a folder with data"),
    "folder": Kind("a folder of no known kind", None, "give a folder of images by class or of text files, or a file"),
    "binary": Kind("of no known kind", None, "give CSV, TSV, JSONL, Parquet, .npz, .npy, images or text"),
}  # fmt: skip


def format_of(name: str, head: bytes) -> str:
    """Returns the kind of a file, a key of `KINDS`, from its first bytes and, where these do not tell, its name.

    Args:
      name: the file's name.
      head: its first bytes, up to `HEAD`.

    Example:
      >>> format_of("wine.csv", b"a,b\\n1,2\\n"), format_of("wine.csv", b"PAR1..."), format_of("log", b'{"a": 1}')
      ('csv', 'parquet', 'jsonl')
    """
    suffix = Path(name).suffix.lower()
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head.startswith(b"PK\x03\x04"):
        return _ZIPPED.get(suffix, "zip")
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"RIFF") and (riff := {b"WEBP": "image", b"WAVE": "recording"}.get(head[8:12])):
        return riff
    if head.startswith(_PICKLES):
        return "pickle"
    if not head.strip():
        return "empty" if b"\0" not in head else "binary"
    if b"\0" in head:
        return "binary"
    return _text_format(suffix, head)


def _text_format(suffix: str, head: bytes) -> str:
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    first = start.splitlines()[0].rstrip() if start else b""
    if start.startswith(b"{") and _is_coco(start, first):
        return "coco"
    if start.startswith(b"{"):
        return "jsonl" if first.endswith(b"}") or len(head) == len(first) == HEAD else "json"
    if suffix == ".json":
        return "json"
    if suffix in TEXTS and suffix != ".txt":
        return "text"
    return "csv" if any(c in first for c in (b",", b";", b"\t", b"|")) else "text"


def _is_coco(start: bytes, first: bytes) -> bool:
    """Whether text is the start of COCO JSON rather than of other objects, one a line."""
    try:
        row = parse_json(first)
    except ValueError:  # it goes on in the next line, or after what was read
        return _COCO.search(start) is not None
    return isinstance(row, dict) and all(isinstance(row.get(name), list) for name in ("images", "annotations"))


def kind_of(path: str | os.PathLike[str]) -> str:
    """Returns the kind of a file or a folder that exists, a key of `KINDS`.

    A folder is looked at with its subfolders, three levels deep: `train-clean-100/84/121123/84-121123-0000.flac`.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> (folder / "cats").mkdir()
      >>> _ = (folder / "cats" / "1.png").write_bytes(b"")
      >>> kind_of(folder)
      'images'
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _kind_of_folder(path)
    try:
        with path.open("rb") as file:
            return format_of(path.name, file.read(HEAD))
    except OSError:
        return "binary"


def _kind_of_folder(folder: Path) -> str:
    suffixes: Counter[str] = Counter()
    values: list[Path] = []
    for depth, (place, folders, files) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes.update(Path(name).suffix.lower() for name in files if not name.startswith("."))
        values += [Path(place, name) for name in sorted(files) if name.lower().endswith(".json")]
        if len(Path(place).relative_to(folder).parts) > 2:
            folders.clear()
        if suffixes.total() > _LISTED or depth > _LISTED:
            break
    if not suffixes:
        return "empty"
    counts = {
        "images": sum(suffixes[suffix] for suffix in IMAGES),
        "recordings": sum(suffixes[suffix] for suffix in RECORDINGS),  # before the transcripts beside them
        "texts": sum(suffixes[suffix] for suffix in TEXTS),
        "dataset": suffixes[".arrow"],
        "tables": sum(suffixes[suffix] for suffix in (*_BY_SUFFIX, ".parquet")),
    }
    best = max(counts, key=lambda name: counts[name])
    if best == "images" and any(kind_of(value) == "coco" for value in values[:_JSON_FILES]):
        return "objects"
    return best if counts[best] else "folder"


def section(path: str | os.PathLike[str], kind: Kind) -> str:
    """Returns the data section that reads a path, as a line of YAML.

    Example:
      >>> section("wine.csv", KINDS["csv"])
      'data: {name: table, train: wine.csv, target: COLUMN}'
    """
    return f"data: {{name: {kind.reader}, {kind.keys.replace('PATH', os.fspath(path))}}}"


def advice(path: str | os.PathLike[str], reader: str) -> str:
    """Returns what to say of a path that a reader cannot read, as a clause that follows the path.

    Args:
      path: a file or a folder that exists.
      reader: the `data.name` that was to read it.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "wine.csv"
      >>> _ = file.write_text("a,b\\n1,2\\n")
      >>> advice(file, "arrays").partition("; ")[0]
      'is a CSV file, which data.name: table reads'
    """
    kind = KINDS[kind_of(path)]
    if kind.reader is None:
        return f"is {kind.what}; {kind.keys}"
    if kind.reader == reader:
        return f"is {kind.what}; write {section(path, kind)}"
    return f"is {kind.what}, which data.name: {kind.reader} reads; write {section(path, kind)}"


def unfit(path: str | os.PathLike[str], reader: str) -> str | None:
    """Returns what to say of a path that is to be predicted and cannot be, as a clause that follows the path.

    Args:
      path: a file or a folder that exists.
      reader: the `data.name` of the run.

    Returns:
      The clause; None where it is not known what the path is, or where the reader takes its kind.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "wine.csv"
      >>> _ = file.write_text("a,b\\n1,2\\n")
      >>> unfit(file, "arrays")
      'is a CSV file, and this run takes .npz files that hold inputs, and .npy files'
    """
    found = kind_of(path)
    if found in ("binary", "empty") or KINDS[found].reader == reader:
        return None
    return f"is {KINDS[found].what}, and this run takes {TAKES[reader]}"


def mistaken(path: str | os.PathLike[str], reader: str) -> str | None:
    """Returns `advice` where a path is known to be of a kind that a reader does not read; None where it is not known.

    For a reader to say of a file that it cannot make sense of, before it says that the file is damaged.

    Args:
      path: a file or a folder that exists.
      reader: the `data.name` that was to read it.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "wine.csv"
      >>> _ = file.write_text("a,b\\n1,2\\n")
      >>> mistaken(file, "table") is None, mistaken(file, "arrays") is None
      (True, False)
    """
    found = kind_of(path)
    return None if found in ("binary", "empty") or KINDS[found].reader == reader else advice(path, reader)
