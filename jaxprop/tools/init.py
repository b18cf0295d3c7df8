"""Looks at a file or a folder, and writes a configuration that trains on it."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprop.data.kinds import KINDS, kind_of
from jaxprop.data.readers.table.files import Table
from jaxprop.data.readers.table.formats import open_table
from jaxprop.data.readers.table.values import Seen, look, texts
from jaxprop.errors import UsageError

# Names that a target often has, in the order in which they are looked for; without one, it is the last column.
_TARGETS = ("target", "label", "labels", "class", "y", "quality", "species", "diagnosis", "outcome", "price")
_CLASSES = 20  # a target of more different integers is taken for a number
_STEPS, _EPOCHS = 2000, (3, 100)  # a run is made about so many steps long, within so many epochs
_BATCH = 32
_FEW = 40  # rows of which none are held out
_PLAIN = re.compile(r"[A-Za-z_][\w ./-]*[\w/]|[A-Za-z_]")


class Guess(NamedTuple):
    """What a table seems to be for.

    Args:
      rows: number of rows.
      target: name of the target.
      task: classify or regress.
      why: what the target holds.
      ignore: columns that cannot be features, and why.
    """

    rows: int
    target: str
    task: str
    why: str
    ignore: dict[str, str]


def starter(path: str, name: str) -> str:
    """Returns the text of a configuration for the data at a path, with comments on what was guessed.

    Args:
      path: a file or a folder that exists.
      name: of the configuration.

    Raises:
      UsageError: no reader reads what is there.
      DataError: it is damaged.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "small.csv"
      >>> _ = file.write_text("size,color\\n1,red\\n2,blue\\n1,red\\n")
      >>> [line for line in starter(str(file), "small").splitlines() if line.startswith("task")]
      ['task: {name: classify}        # color holds 2 different texts']
    """
    kind = KINDS[kind_of(path)]
    if kind.reader is None:
        raise UsageError(f"{path}: is {kind.what}; {kind.keys}")
    return WRITERS[kind.reader](path, name)


def _table(path: str, name: str) -> str:
    guess = guess_table(open_table(path))
    splits = guess.rows >= _FEW
    held = 0.3 * guess.rows if splits else 0
    size = max(1, min(_BATCH, int((guess.rows - held) // 2)))
    fewest, most = _EPOCHS
    epochs = max(fewest, min(most, round(_STEPS * size / max(guess.rows - held, 1))))
    ignored = [f"  ignore: [{', '.join(map(quoted, guess.ignore))}]"] if guess.ignore else []
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(path).name)}, which has {guess.rows:,} rows.",
            "#",
            f"#     jaxprop train {name}.yaml",
            "#",
            "# What was guessed is the target, and whether it is a class or a number.",
            "",
            f"task: {{name: {guess.task}}}        # {quoted(guess.target)} holds {guess.why}",
            "",
            "data:",
            "  name: table",
            f"  train: {quoted(path)}",
            f"  target: {quoted(guess.target)}",
            *[f"  # {quoted(column)}: {why}" for column, why in guess.ignore.items()],
            *ignored,
            *(["  validation: 0.15           # chooses the best checkpoint"] if splits else []),
            *(["  test: 0.15                 # measured once, with the best checkpoint"] if splits else []),
            f"  batch_size: {size}",
            "",
            "model: {name: mlp, hidden: [64, 64], dropout: 0.1}",
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2}",
            "",
            f"run: {{epochs: {epochs}}}",
            "",
        ]
    )


def guess_table(table: Table) -> Guess:
    """Guesses the target of a table and its task.

    Args:
      table: the table.

    Raises:
      UsageError: it has fewer than two columns that can be used.
    """
    usable = [name for name in table.columns if name not in table.refused]
    if len(usable) < 2:
        raise UsageError(f"{table.name}: has {len(usable)} column that can be used; a table needs a target and another")
    seen = look(table, usable)
    lower = {name.lower(): name for name in reversed(usable)}
    target = next((lower[name] for name in _TARGETS if name in lower), usable[-1])
    rows = sum(len(block.lines) for block in table.blocks())
    task, why = _task(table, target, seen[target])
    ignore = {name: table.refused[name] for name in table.columns if name in table.refused}
    for name in usable:
        why_not = None if name == target else _useless(table, name, seen[name], rows)
        if why_not is not None:
            ignore[name] = why_not
    return Guess(rows, target, task, why, ignore)


def _task(table: Table, target: str, seen: Seen) -> tuple[str, str]:
    numbers = seen.counts["number"] == seen.present
    held = distinct(table, target)
    if numbers and (len(held) > _CLASSES or any("." in text or "e" in text.lower() for text in held)):
        return "regress", "numbers"
    return "classify", f"{len(held)} different {'integers' if numbers else 'texts'}"


def distinct(table: Table, name: str) -> set[str]:
    """Returns the different values of a column, as texts.

    Args:
      table: the table.
      name: of the column.
    """
    return {text for block in table.blocks() for text in texts(block.columns[name])[1]}


def _useless(table: Table, name: str, seen: Seen, rows: int) -> str | None:
    if not seen.present:
        return "has no value"
    if seen.counts["date"]:
        return "holds dates, which are not read as features"
    if seen.counts["text"] and rows >= _FEW and 2 * len(distinct(table, name)) > rows:
        return "holds a text of its own in most rows"
    return None


def _images(path: str, name: str) -> str:
    return _folder(
        path,
        name,
        kind="images",
        task="task: {name: classify}        # each folder is a class",
        data=["  validation: 0.15           # chooses the best checkpoint"],
        model="model: {name: cnn, channels: [32, 64]}",
        run="run: {epochs: 20}",
    )


def _text(path: str, name: str) -> str:
    return _folder(
        path,
        name,
        kind="text",
        task="task: {name: language}        # the next byte",
        data=["  sequence_length: 128", "  validation: 0.1            # chooses the best checkpoint"],
        model="model: {name: transformer, layers: 4, width: 128, heads: 4}",
        run="run: {steps: 2000, eval_every: 200}",
    )


def _speech(path: str, name: str) -> str:
    return _folder(
        path,
        name,
        kind="speech",
        task="task: {name: transcribe}      # audio to text",
        data=["  validation: 0.1            # chooses the best checkpoint", "  buckets: 4"],
        model="model: {name: conformer}",
        run="run: {epochs: 50}",
    )


# What the folders of splits are called.
_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def splits_in(path: str) -> dict[str, str]:
    """Returns the folders of the splits in a folder, by split; empty where it has none for training.

    Args:
      path: a file or a folder.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> for name in ("train", "val"):
      ...     (folder / name).mkdir()
      >>> {split: Path(found).name for split, found in splits_in(str(folder)).items()}
      {'train': 'train', 'validation': 'val'}
    """
    found = {
        split: str(Path(path, name))
        for split, names in _FOLDERS.items()
        for name in reversed(names)
        if Path(path, name).is_dir()
    }
    return found if "train" in found else {}


def _folder(path: str, name: str, *, kind: str, task: str, data: list[str], model: str, run: str) -> str:
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(path).name)}.",
            "#",
            f"#     jaxprop train {name}.yaml",
            "",
            task,
            "",
            "data:",
            f"  name: {kind}",
            *[f"  {split}: {quoted(place)}" for split, place in (splits_in(path) or {"train": path}).items()],
            *[line for line in data if not (line.strip().startswith("validation") and "validation" in splits_in(path))],
            "  batch_size: 32",
            "",
            model,
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2}",
            "",
            run,
            "",
        ]
    )


def _arrays(path: str, name: str) -> str:
    if Path(path).suffix.lower() == ".npy":
        raise UsageError(
            f"{path}: holds one array, and a configuration needs inputs and labels; write data: {{name: arrays, "
            f"train_inputs: {path}, train_labels: LABELS.npy}}"
        )
    try:
        with Path(path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as archive:
            integers = archive["labels"].dtype.kind in "iu" if "labels" in archive.files else True
            several = archive["labels"].ndim > 1 if "labels" in archive.files else False
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as a .npz file ({type(error).__name__}); write it again") from error
    task = "classify" if integers and not several else "regress"
    return _folder(
        path,
        name,
        kind="arrays",
        task=f"task: {{name: {task}}}        # by the dtype of the labels",
        data=["  validation: 0.15           # chooses the best checkpoint"],
        model="model: {name: mlp, hidden: [64, 64]}",
        run="run: {epochs: 20}",
    )


def quoted(text: str) -> str:
    """Returns a text as YAML has it: as it is where that is plain, otherwise in double quotes.

    Example:
      >>> quoted("wine.csv"), quoted("no"), quoted("a: b")
      ('wine.csv', '"no"', '"a: b"')
    """
    text = os.fspath(text)
    plain = _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "yes", "no", "on", "off")
    return text if plain else json.dumps(text, ensure_ascii=False)


WRITERS: dict[str, Callable[[str, str], str]] = {
    "table": _table,
    "images": _images,
    "text": _text,
    "arrays": _arrays,
    "speech": _speech,
}
