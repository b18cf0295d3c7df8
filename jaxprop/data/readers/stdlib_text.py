"""The standard library of the running Python as text: real data on every machine, without a download."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.schema.data import StdlibText
from jaxprop.data.packing import Piece, pack, unigram_nats, windows_of
from jaxprop.data.tokenizers import make_tokenizer, restore
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

# The split is the same for every run: the run's seed must not move files between train and test. Of the seeds 0 to 5,
# only 1 gives the test set its fraction of the bytes as well as of the files: one file is a twelfth of all text.
_SPLIT_SEED = 1
_SUFFIXES = (".py", ".txt", ".rst", ".html")
# Third-party packages, tests (unusual encodings, generated data), and files that a build writes for one machine.
_OTHER_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}
_MACHINE_FOLDER_PREFIX = "config-"
_MACHINE_FILE_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize")
# A hundred nearly identical character tables made by one script; a split by file would leak them into the test set.
_GENERATED_FOLDERS = {"encodings"}
# The byte between files: it occurs in no text file, so a model can learn where a file begins.
_SEPARATOR = 0


class _Text(NamedTuple):
    content: bytes  # each file is followed by the separator; the last may be cut
    files: int


def open_stdlib_text(
    section: StdlibText, root: Path | None = None, prepared: Mapping[str, Any] | None = None
) -> dict[str, Source]:
    """Opens the standard library's source and documentation text as windows of tokens, split by file.

    A file belongs to the test set if a hash of its path is below `test_fraction`. The files of a split are
    concatenated in the order of that hash, each followed by a zero byte, or by what a tokenizer has for the end of a
    text. Windows are as of `jaxprop.data.packing.windows_of`.

    Args:
      section: the config's `data` section; `max_bytes` limits the training text, and the test text in proportion.
      root: the folder of the standard library; by default that of the running Python.
      prepared: what an earlier run has stored: its tokenizer.

    Returns:
      `train` and `test`, with inputs and labels int32 `[B, T]` and mask float32 `[B, T]`. `info` holds `vocabulary`,
      the `bytes` and `files` of the split, and `unigram_nats`: the cross-entropy of the test tokens under the
      frequencies of the train tokens, in nats/token.

    Raises:
      DataError: the library's sources are not on disk, or a split would be empty.

    Example:
      >>> section = StdlibText(name="stdlib_text", sequence_length=16, max_bytes=50_000)
      >>> import numpy as np
      >>> batch = open_stdlib_text(section)["train"].take(np.array([0, 1]))
      >>> batch["inputs"].shape, bool((batch["inputs"][:, 1:] == batch["labels"][:, :-1]).all())
      ((2, 16), True)
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    train_files, test_files = split_files(list_files(root), section.test_fraction)
    train_cap = section.max_bytes
    test_cap = None
    if train_cap is not None:
        test_cap = max(2, round(train_cap * section.test_fraction / (1 - section.test_fraction)))
    train = _read(root, train_files, train_cap)
    test = _read(root, test_files, test_cap)
    for split, text in (("train", train), ("test", test)):
        if len(text.content) < 2:
            raise DataError(
                f"the {split} split of the standard library's text under {root} is empty "
                f"({len(train_files)} train and {len(test_files)} test files); change data.test_fraction "
                f"(now {section.test_fraction}) or data.max_bytes (now {section.max_bytes})"
            )
    tokenizer = (
        make_tokenizer(section.tokenizer, lambda: (piece.text for piece in _pieces(train)))
        if prepared is None
        else restore(prepared.get("tokenizer"))
    )
    length, texts = section.sequence_length, {"train": train, "test": test}
    packed = {split: pack(_pieces(text), tokenizer, length) for split, text in texts.items()}
    nats = unigram_nats(packed["train"].tokens, packed["test"].tokens, tokenizer.vocabulary)
    return {
        split: windows_of(
            packed[split], length, tokenizer, {"files": text.files, "unigram_nats": nats}, name="stdlib_text"
        )
        for split, text in texts.items()
    }


def list_files(root: Path) -> list[str]:
    """Lists the source and documentation files of a standard library.

    Third-party packages, tests, generated tables and files of one machine's build are left out.

    Args:
      root: the folder of the standard library.

    Returns:
      Paths relative to `root` with `/` between folders, sorted.

    Raises:
      DataError: there are none, as in a zipped or stripped Python.

    Example:
      >>> files = list_files(Path(sysconfig.get_path("stdlib")))
      >>> "json/decoder.py" in files, any("site-packages" in name for name in files)
      (True, False)
    """
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if _is_library(name)]
        files += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in names
            if name.endswith(_SUFFIXES) and not name.startswith(_MACHINE_FILE_PREFIXES)
        ]
    if not any(name.endswith(".py") for name in files):
        raise DataError(
            f"the running Python has no standard library sources under {root} (a zipped or stripped installation); "
            "run with a full CPython, or use your own data with data.name: arrays"
        )
    return sorted(files)


def _is_library(folder: str) -> bool:
    return folder not in _OTHER_FOLDERS | _GENERATED_FOLDERS and not folder.startswith(_MACHINE_FOLDER_PREFIX)


def split_files(files: Iterable[str], test_fraction: float) -> tuple[list[str], list[str]]:
    """Splits files by a hash of their paths, so that a file stays in its split when other files come or go.

    Args:
      files: relative paths.
      test_fraction: expected fraction of the files in the test set.

    Returns:
      The train files and the test files, each in the order of the hash.

    Example:
      >>> split_files(["abc.py", "ast.py", "json/decoder.py", "typing.py"], test_fraction=0.5)
      (['typing.py', 'json/decoder.py', 'ast.py'], ['abc.py'])
    """
    place = {name: _unit_hash(name) for name in files}
    ordered = sorted(place, key=place.__getitem__)
    test = [name for name in ordered if place[name] < test_fraction]
    return ordered[len(test) :], test


def _unit_hash(name: str) -> float:
    digest = hashlib.sha256(f"{_SPLIT_SEED}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _read(root: Path, files: list[str], cap: int | None) -> _Text:
    text = bytearray()
    used = 0
    for name in files:
        if cap is not None and len(text) >= cap:
            break
        content = _text_of(root / name)
        if content:
            text += content
            text.append(_SEPARATOR)
            used += 1
    if cap is not None:
        del text[cap:]
    return _Text(bytes(text), used)


def _text_of(path: Path) -> bytes:
    """Returns a file's bytes with `\\n` line ends; nothing if it is unreadable or not UTF-8 text."""
    try:
        content = path.read_bytes()
        content.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return b""
    return b"" if _SEPARATOR in content else content.replace(b"\r\n", b"\n")


def _pieces(text: _Text) -> Iterator[Piece]:
    """The files of a split; of a file that `max_bytes` has cut, no end."""
    *whole, cut = text.content.split(bytes([_SEPARATOR]))
    for content in whole:
        yield Piece(content.decode())
    if cut:
        yield Piece(cut.decode(errors="ignore"), last=False)  # but for a character that has been cut in two


STDLIB_TEXT = Reader(lambda section, _task, prepared: open_stdlib_text(section, prepared=prepared))
