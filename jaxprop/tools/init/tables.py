"""Configurations for tables: rows with a target, sentences with a label, pairs of sentences, lists of recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from jaxprop.data import records
from jaxprop.data.readers.audio.manifests import AUDIO
from jaxprop.data.readers.audio.manifests import TEXT as TRANSCRIPTS
from jaxprop.data.readers.audio.waves import SUFFIXES
from jaxprop.data.readers.table.files import Table
from jaxprop.data.readers.table.formats import open_table
from jaxprop.data.readers.table.values import Seen, look, texts
from jaxprop.errors import UsageError
from jaxprop.tools.init.recordings import configured
from jaxprop.tools.init.written import FEW, TARGETS, batch_size_for, epochs_for, quoted

_CLASSES = 20  # a target of more different integers is taken for a number
_BATCH = 32
_MOST = 0.9  # share of texts in a column of sentences
_WORDS, _SENTENCE = 2, 5  # words of a text that may be a sentence, and of one that surely is
_PAIRS = 10  # rows from which two columns of texts that all differ are pairs
_PAIRED = (("source", "target"), ("src", "tgt"))  # columns that are sides of a pair even where one side is numbers
_SIDES = (*_PAIRED, ("input", "output"), ("question", "answer"), ("text", "summary"))


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


def table(path: str, name: str) -> str:
    """Returns the text of a configuration for a table; see `jaxprop.tools.init.starter`."""
    opened = open_table(path)
    if _lists_recordings(opened):
        other = opened.delimiter if Path(path).suffix.lower() == ".csv" and opened.delimiter != "," else None
        return configured({"train": path}, name, other)
    sides = guess_pair(opened) if Path(path).suffix.lower() in records.KINDS else None
    if sides is not None:
        return _pairs(path, name, opened, sides)
    guess = guess_table(opened)
    if guess.text is not None and Path(path).suffix.lower() in records.KINDS:
        return _labelled_text(path, name, guess, opened.delimiter)
    splits = guess.rows >= FEW
    held = 0.3 * guess.rows if splits else 0
    size = max(1, min(_BATCH, int((guess.rows - held) // 2)))
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
            f"run: {{epochs: {epochs_for(guess.rows - held, size)}}}",
            "",
        ]
    )


def _labelled_text(path: str, name: str, guess: Guess, delimiter: str | None) -> str:
    """A configuration that learns a label from a column of sentences."""
    assert guess.text is not None
    splits = guess.rows >= FEW
    kept = guess.rows * (0.85 if splits else 1)
    size = max(1, min(_BATCH, int(kept // 2)))
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
            f"run: {{epochs: {epochs_for(kept, size)}}}",
            "",
        ]
    )


def _lists_recordings(table: Table) -> bool:
    """Whether the rows are audio files and their transcripts."""
    lower = {name.lower(): name for name in reversed(table.columns)}
    paths = next((lower[name] for name in AUDIO if name in lower), None)
    if paths is None or not set(TRANSCRIPTS) & lower.keys() or paths in table.refused:
        return False
    held = next((texts(block.columns[paths])[1] for block in table.blocks()), [])
    return any(text.lower().endswith(SUFFIXES) for text in held)


def guess_pair(table: Table) -> tuple[str, str] | None:
    """Returns the columns of a text and of another one that it becomes, such as its translation.

    They are the only two columns, and nearly all of their texts differ; or they are called so. Of columns called source
    and target, one may hold numbers.

    Args:
      table: the table.

    Returns:
      The names of the two, or None where there are no such columns.
    """
    usable = [name for name in table.columns if name not in table.refused]
    lower = {name.lower(): name for name in reversed(usable)}
    named = next(((lower[a], lower[b]) for a, b in _SIDES if a in lower and b in lower), None)
    sides = named or (tuple(usable) if len(usable) == 2 else None)
    if sides is None:
        return None
    seen = look(table, list(sides))
    rows = sum(len(block.lines) for block in table.blocks())
    of_text = [seen[name].counts["text"] >= _MOST * max(seen[name].present, 1) for name in sides]
    if not (any(of_text) if named and (sides[0].lower(), sides[1].lower()) in _PAIRED else all(of_text)):
        return None
    held = [distinct(table, name) for name in sides]
    if any(2 * len(found) <= rows for found in held) or (named is None and rows < _PAIRS):
        return None
    words = max(sum(len(text.split()) for text in found) / max(len(found), 1) for found in held)
    return (sides[0], sides[1]) if words >= _WORDS else None


def _pairs(path: str, name: str, table: Table, sides: tuple[str, str]) -> str:
    """A configuration that learns to write one text for another."""
    rows = sum(len(block.lines) for block in table.blocks())
    splits, delimiter = rows >= FEW, table.delimiter
    kept = rows * (0.9 if splits else 1)
    size = batch_size_for(kept, _BATCH)
    separated = records.kind_of(Path(path)) == "csv" and delimiter not in (None, ",")
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(path).name)}, which has {rows:,} pairs of texts.",
            "#",
            "#     pip install sacrebleu",
            f"#     jaxprop train {name}.yaml",
            "#",
            "# What was guessed is that the task is to write a text for each text, and which is which.",
            "",
            "task: {name: translate}",
            "",
            "data:",
            "  name: pairs",
            f"  train: {quoted(path)}",
            f"  source: {quoted(sides[0])}",
            f"  target: {quoted(sides[1])}",
            *([f"  delimiter: {json.dumps(delimiter)}"] if separated else []),
            "  # Texts are read by their bytes. Longer ones become fewer tokens, after pip install tokenizers, with",
            "  # tokenizer: {train: bpe, vocabulary: 4000}",
            *(["  validation: 0.1            # chooses the best checkpoint"] if splits else []),
            f"  batch_size: {size}",
            "",
            "model: {name: seq2seq_transformer, layers: 2, width: 128, heads: 4, dropout: 0.1}",
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2}",
            "",
            f"run: {{epochs: {epochs_for(kept, size)}}}",
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
    target = next((lower[name] for name in TARGETS if lower.get(name) in likely), likely[-1])
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
    if seen.counts["text"] and rows >= FEW and 2 * len(distinct(table, name)) > rows:
        return "holds a text of its own in most rows"
    return None
