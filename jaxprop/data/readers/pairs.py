"""Pairs of texts: a source, and a target that is written token by token."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.schema.data import Pairs
from jaxprop.data import records
from jaxprop.data.again import Again, named
from jaxprop.data.bad import BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.padding import Encoded, encode, rows
from jaxprop.data.piped_texts import Form
from jaxprop.data.readers.text import unlabelled
from jaxprop.data.splits import held_out, parted
from jaxprop.data.texts import inputs_of
from jaxprop.data.tokenizers import Tokenizer, digest_of, make_tokenizer, restore
from jaxprop.errors import ConfigError, DataError
from jaxprop.types import Reader, Source

_SUFFIXES = (*records.KINDS, *records.SUFFIXES, ".json", ".gz", ".zip")
SPLITS = ("train", "validation", "test")
Pair = tuple[str, str]


def open_pairs(section: Pairs, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens pairs of texts from files with two columns, or from two files whose lines belong together.

    Args:
      section: the config's `data` section; paths are from the working directory.
      prepared: what an earlier run has stored: its tokenizer and lengths.

    Returns:
      `train`, and `validation` and `test` where the section has them; without `train` where `prepared` is given. With
      the source's tokens s_1..s_S and the target's t_1..t_T, a batch holds `inputs` int32 `[B, S]` (s), `input_mask`
      float32 `[B, S]` (1 where there is text), `targets` int32 `[B, T + 1]` (begin, t_1..t_T), `labels` int32
      `[B, T + 1]` (t_1..t_T, end) and their `mask` float32 `[B, T + 1]`. All are padded at the right with 0. `info`
      holds `vocabulary`, `begin` and `end`.

    Raises:
      DataError: files are missing or of unequal length, or hold more bad pairs than are allowed.
    """
    again: dict[str, Again[Pair]] = {}
    notes: dict[str, list[str]] = {}
    given = _paths(section, prepared)
    for split, (path, targets) in given.items():  # before anything needs a package to be read
        records.find(path, f"data.{split}")
        if targets is not None:
            records.find(targets, f"data.{split}_targets")
    for split, paths in given.items():
        bad = BadRecords(section.max_bad_fraction, unit="pair")
        again[split] = Again(_reader(paths, f"data.{split}", section, bad), lambda p: len(p[0]) + len(p[1]), paths[0])
        good = sum(1 for _ in again[split])
        notes[split] = bad.notes(good + bad.count)
        if not good:
            raise DataError(f"data.{split}: {paths[0]} holds no pairs")
    stays = held = None
    if isinstance(section.validation, float) and "train" in again:
        count = sum(1 for _ in again["train"])
        stays, held = held_out(np.zeros((count, 1)), section.validation, section.split_seed)
        if not len(stays):
            raise DataError(f"data.validation: {section.validation:g} of {count} pairs leaves none to train on")
    if prepared is None:
        kept = None if stays is None else set(stays.tolist())
        tokenizer = make_tokenizer(
            section.tokenizer,
            lambda: (text for i, pair in enumerate(again["train"]) if kept is None or i in kept for text in pair),
        )
    else:
        tokenizer = restore(prepared.get("tokenizer"))
    sides = {split: _encoded(pairs, tokenizer, section.max_length) for split, pairs in again.items()}
    if prepared is None:
        lengths = [side.length(section.max_length, stays) for side in sides["train"]]
    else:
        lengths = [int(n) for n in prepared["lengths"]]
    made = {
        split: source_of_pairs(side, tokenizer, lengths, section.max_length, notes[split])._replace(
            names=named(partial(_places, given[split], f"data.{split}", section))
        )
        for split, side in sides.items()
    }
    if stays is not None and held is not None:
        made["train"], made["validation"] = parted(made["train"], stays, held)
    if prepared is not None:
        made.pop("train", None)
    return {split: made[split] for split in SPLITS if split in made}


# -- reading --------------------------------------------------------------------------------------


def _paths(section: Pairs, prepared: Mapping[str, Any] | None) -> dict[str, tuple[str, str | None]]:
    """The files of each split: of the pairs, or of the sources and of the targets."""
    paths: dict[str, tuple[str, str | None]] = {}
    for split in SPLITS:
        path, targets = getattr(section, split), getattr(section, f"{split}_targets")
        if isinstance(path, str):
            paths[split] = path, targets
        elif targets is not None:
            raise ConfigError(f"data.{split}_targets: there is no file data.{split} whose lines these would belong to")
    if prepared is not None:
        needed = isinstance(section.validation, float) and Path(section.train).expanduser().exists()
        return {split: path for split, path in paths.items() if split != "train" or needed}
    return paths


def _reader(paths: tuple[str, str | None], key: str, section: Pairs, bad: BadRecords) -> Callable[[], Iterator[Pair]]:
    told = iter([bad])
    return lambda: (pair for _, pair in _pairs(paths, key, section, next(told, BadRecords(1.0))))


def _places(paths: tuple[str, str | None], key: str, section: Pairs) -> Iterator[str]:
    return (where for where, _ in _pairs(paths, key, section, BadRecords(1.0)))


def _pairs(paths: tuple[str, str | None], key: str, section: Pairs, bad: BadRecords) -> Iterator[tuple[str, Pair]]:
    """The pairs of one split with their places; those that cannot be used are left out."""
    names = (section.source, section.target)
    for where, values in _read(paths, key, section, bad):
        why = next(
            (why for name, text in zip(names, values, strict=True) if (why := records.why_no_value(text, name))), None
        )
        if why is not None:
            bad.add(where, why)
        else:
            yield where, (values[0], values[1])


def _read(
    paths: tuple[str, str | None], key: str, section: Pairs, bad: BadRecords
) -> Iterator[tuple[str, Sequence[Any]]]:
    first, second = paths
    if second is not None:
        yield from _parallel(_one(first, key), _one(second, f"{key}_targets"), bad)
        return
    for file in records.find(first, key).files:
        if records.kind_of(file) == "text":
            raise DataError(
                f"{key}: {file} is plain text; expected JSONL, CSV, TSV or Parquet with the columns "
                f"{section.source!r} and {section.target!r}, or a second file as {key}_targets"
            )
        yield from records.read(file, [section.source, section.target], bad, section.delimiter)


def _one(path: str, key: str) -> Path:
    files = records.find(path, key).files
    if len(files) != 1 or records.kind_of(files[0]) != "text":
        raise DataError(f"{key}: {path}: expected one plain text file, whose lines belong to those of another")
    return files[0]


def _parallel(sources: Path, targets: Path, bad: BadRecords) -> Iterator[tuple[str, Sequence[Any]]]:
    """Lines of two files with the same number; a blank line on both sides is no pair."""
    with records.opened(sources) as left, records.opened(targets) as right:
        for number, (one, other) in enumerate(zip_longest(left, right), 1):
            if one is None or other is None:
                shorter, longer = (sources, targets) if one is None else (targets, sources)
                raise DataError(
                    f"{shorter} ends at line {number - 1}, but {longer} goes on; the lines of both files belong "
                    "together, so they need the same number of them"
                )
            where = f"{sources}:{number}"
            try:
                texts = [raw.decode("utf-8-sig").rstrip("\r\n") for raw in (one, other)]
            except UnicodeDecodeError:
                bad.add(where, "is not UTF-8 on one side")
                continue
            if any(text.strip() for text in texts):
                yield where, texts


# -- the source -----------------------------------------------------------------------------------


def _encoded(pairs: Again[Pair], tokenizer: Tokenizer, limit: int) -> tuple[Encoded, Encoded]:
    return encode((s for s, _ in pairs), tokenizer, limit), encode((t for _, t in pairs), tokenizer, limit)


def source_of_pairs(
    sides: tuple[Encoded, Encoded],
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    limit: int,
    notes: Sequence[str] = (),
    name: str = "pairs",
) -> Source:
    """Returns encoded sources and targets as a source of the batches that `open_pairs` tells of.

    Args:
      sides: sources and targets.
      tokenizer: that has made the tokens.
      lengths: S and T, which they are padded to.
      limit: largest number of tokens of a text.
      notes: what there is to say of them.
      name: of the reader, for the fingerprint.
    """
    sources, targets = sides

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs, input_mask = rows(sources, indices, lengths[0])
        written, held = rows(targets, indices, lengths[1])
        begin = np.full((len(indices), 1), tokenizer.begin, np.int32)
        blank = np.zeros((len(indices), 1), np.int32)
        labels, mask = np.concatenate([written, blank], 1), np.concatenate([held, 0 * held[:, :1]], 1)
        whole = np.flatnonzero(targets.full[indices] <= lengths[1])  # a target that was cut does not end here
        ends = held.sum(1).astype(np.int64)[whole]
        labels[whole, ends], mask[whole, ends] = tokenizer.end, 1
        return {
            "inputs": inputs,
            "input_mask": input_mask,
            "targets": np.concatenate([begin, written], 1),
            "labels": labels,
            "mask": mask,
        }

    told = [note for side in sides for note in side.cut_note(lengths[0] if side is sources else lengths[1], limit)]
    info = {
        "vocabulary": tokenizer.vocabulary,
        "tokenizer": tokenizer.kind,
        "begin": tokenizer.begin,
        "end": tokenizer.end,
    }
    parts = [part for side in sides for part in (side.starts, side.tokens)]
    return Source(
        length=len(sources.full),
        take=take,
        info=info | ({"notes": [*notes, *told]} if notes or told else {}),
        fingerprint=fingerprint(name, str(list(lengths)), digest_of(tokenizer), *parts),
        prepared={"tokenizer": dict(tokenizer.stored), "lengths": list(lengths)},
    )


def source_inputs(
    prepared: Mapping[str, Any],
    paths: Sequence[str],
    *,
    limit: int,
    column: str = "source",
    delimiter: str | None = None,
) -> Source | Iterator[Source]:
    """Opens sources without targets, to be translated.

    Args:
      prepared: what the run has stored.
      paths: files, folders, globs and `-` as of `jaxprop.data.readers.text.text_inputs`; or a text itself.
      limit: largest number of tokens of a text.
      column: of the source, in files that have columns.
      delimiter: between the columns of a CSV file.

    Returns:
      A source of `inputs` and `input_mask`. A text that is longer than those of training is told in `info["bad"]`.

    Raises:
      DataError: files are missing or cannot be read, or hold nothing.
    """
    prepared = {**prepared, "length": prepared["lengths"][0]}

    def read(path: str, bad: BadRecords) -> Iterator[records.Record]:
        if _is_text(path):
            yield records.Record(path, (path,))
        else:
            yield from unlabelled(path, column, delimiter, bad)

    form = Form(column, delimiter)
    return inputs_of(paths, prepared, limit=limit, column=column, read=read, form=form, whole=True)


def _is_text(argument: str) -> bool:
    """Whether an argument is a text rather than a path: there is no such file, and it does not look like one's name."""
    path = os.path.expanduser(argument)  # not a Path, which fails where a text is longer than a name may be
    if os.path.exists(path):
        return False
    if any(c.isspace() for c in argument):
        return not (glob.has_magic(path) and glob.glob(path, recursive=True))
    return not (os.sep in argument or glob.has_magic(argument) or argument.lower().endswith(_SUFFIXES))


def _inputs(section: Pairs, _: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source | Iterator[Source]:
    return source_inputs(prepared, paths, limit=section.max_length, column=section.source, delimiter=section.delimiter)


PAIRS = Reader(open=lambda section, _task, prepared: open_pairs(section, prepared), inputs=_inputs)
