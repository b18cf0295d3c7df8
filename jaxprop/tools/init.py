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

from jaxprop.data import records
from jaxprop.data.kinds import KINDS, kind_of
from jaxprop.data.readers.huggingface import training_rows
from jaxprop.data.readers.shards import Shards
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
_MOST = 0.9  # share of texts in a column of sentences
_WORDS, _SENTENCE = 2, 5  # words of a text that may be a sentence, and of one that surely is
_PLAIN = re.compile(r"[A-Za-z_][\w ./-]*[\w/]|[A-Za-z_]")


class Guess(NamedTuple):
    """What a table seems to be for.

    Args:
      rows: number of rows.
      target: name of the target.
      task: classify or regress.
      why: what the target holds.
      ignore: columns that cannot be features, and why.
      text: the column that holds sentences, from which a model of text would learn; None where there is none.
      others: columns besides these that could be features.
    """

    rows: int
    target: str
    task: str
    why: str
    ignore: dict[str, str]
    text: str | None = None
    others: tuple[str, ...] = ()


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
    table = open_table(path)
    guess = guess_table(table)
    if guess.text is not None and Path(path).suffix.lower() in records.KINDS:
        return _labelled_text(path, name, guess, table.delimiter)
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


def _labelled_text(path: str, name: str, guess: Guess, delimiter: str | None) -> str:
    """A configuration that learns a label from a column of sentences."""
    assert guess.text is not None
    splits = guess.rows >= _FEW
    kept = guess.rows * (0.85 if splits else 1)
    size = max(1, min(_BATCH, int(kept // 2)))
    fewest, most = _EPOCHS
    epochs = max(fewest, min(most, round(_STEPS * size / max(kept, 1))))
    unused = (
        f"# Not used: {', '.join(map(quoted, guess.others))}. data.name: table would learn from them, without the text."
    )
    separated = records.kind_of(Path(path)) == "csv" and delimiter not in (None, ",")
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(path).name)}, which has {guess.rows:,} rows.",
            "#",
            f"#     jaxprop train {name}.yaml",
            "#",
            "# What was guessed is the column of the text and the label, and whether that is a class or a number.",
            *([unused] if guess.others else []),
            "",
            f"task: {{name: {guess.task}}}        # {quoted(guess.target)} holds {guess.why}",
            "",
            "data:",
            "  name: text",
            f"  train: {quoted(path)}",
            f"  text: {quoted(guess.text)}",
            f"  label: {quoted(guess.target)}",
            *([f"  delimiter: {json.dumps(delimiter)}"] if separated else []),
            *(["  validation: 0.15           # chooses the best checkpoint"] if splits else []),
            f"  batch_size: {size}",
            "",
            "model: {name: transformer, layers: 2, width: 64, heads: 4, dropout: 0.1}",
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
    rows = sum(len(block.lines) for block in table.blocks())
    words = {name: found for name in usable if (found := _words(table, name, seen[name], rows)) is not None}
    # A column of sentences is what something is said of, unless there is nothing else.
    likely = [name for name in usable if name not in words] or usable
    target = next((lower[name] for name in _TARGETS if lower.get(name) in likely), likely[-1])
    task, why = _task(table, target, seen[target])
    ignore = {name: table.refused[name] for name in table.columns if name in table.refused}
    for name in usable:
        why_not = None if name == target else _useless(table, name, seen[name], rows)
        if why_not is not None:
            ignore[name] = why_not
    others = tuple(name for name in usable if name not in (target, *ignore, *words))
    words.pop(target, None)
    text = max(words, key=lambda name: words[name], default=None)
    if text is not None and others and words[text] < _SENTENCE:
        text = None  # such as names of people, beside what can be learned from
    return Guess(rows, target, task, why, ignore, text, others)


def _words(table: Table, name: str, seen: Seen, rows: int) -> float | None:
    """Words in a value, on average, of a column of texts that nearly all differ; None of another column."""
    if seen.counts["text"] < _MOST * max(seen.present, 1):
        return None
    held = distinct(table, name)
    words = sum(len(text.split()) for text in held) / max(len(held), 1)
    return words if 2 * len(held) > rows and words >= _WORDS else None


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


def _huggingface(path: str, name: str) -> str:
    """Of the columns, the label is guessed by its type or its name, and the inputs by what they hold."""
    rows = training_rows(splits_in(path).get("train", path))
    label = _label_of(rows)
    others = [column for column in rows.columns if column != label]
    images = [column for column in others if rows.holds_bytes(column)]
    texts = [column for column in others if rows.holds_text(column)]
    numbers = [column for column in others if rows.holds_number(column)]
    if not images and not texts and not numbers:
        raise UsageError(f"{path}: has no column of images, text or numbers beside {label!r}; name another file")
    task = "regress" if rows.holds_fraction(label) else "classify"
    data, model = [], "model: {name: mlp, hidden: [64, 64]}"
    if images:
        inputs, data = quoted(images[0]), ["  size: [32, 32]"]
        model = "model: {name: cnn, channels: [32, 64]}"
    elif texts:
        inputs, data = quoted(texts[0]), ["  max_length: 256"]
        model = "model: {name: transformer, layers: 2, width: 64, heads: 4}"
    else:
        inputs, data = f"[{', '.join(map(quoted, numbers))}]", ["  standardize: true"]
    return _folder(
        path,
        name,
        kind="huggingface",
        task=f"task: {{name: {task}}}        # by the type of {quoted(label)}",
        data=[
            f"  inputs: {inputs}        # guessed, of the columns {', '.join(map(quoted, rows.columns))}",
            f"  label: {quoted(label)}",
            *data,
            "  validation: 0.15           # chooses the best checkpoint",
        ],
        model=model,
        run="run: {epochs: 20}",
    )


def _label_of(rows: Shards) -> str:
    lower = {column.lower(): column for column in reversed(rows.columns)}
    classes = [column for column in rows.columns if rows.class_names(column)]
    return next(iter(classes), None) or next((lower[name] for name in _TARGETS if name in lower), rows.columns[-1])


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
    "huggingface": _huggingface,
}
