"""Your own text: windows of tokens that predict the next one, or labelled texts of any length."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.schema.data import TextFiles
from jaxprop.data import records
from jaxprop.data.again import Again
from jaxprop.data.bad import BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.labels import Labels, labels_for
from jaxprop.data.packing import Packed, Piece, pack, unigram_nats, windows_of
from jaxprop.data.padding import Encoded, encode, padded
from jaxprop.data.splits import held_out, parted
from jaxprop.data.tokenizers import Tokenizer, make_tokenizer, restore
from jaxprop.errors import ConfigError, DataError, UsageError
from jaxprop.types import Reader, Source

LANGUAGE = "language"
_SUFFIXES = (*records.KINDS, *records.SUFFIXES, ".json", ".gz", ".zip")


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
    return _open_language(section, prepared) if task == LANGUAGE else _open_labelled(section, task, prepared)


# -- language -------------------------------------------------------------------------------------


def _open_language(section: TextFiles, prepared: Mapping[str, Any] | None) -> dict[str, Source]:
    notes: dict[str, list[str]] = {}
    pieces: dict[str, Again[Piece]] = {}
    for split, path in _paths(section, prepared).items():
        bad = BadRecords(section.max_bad_fraction, unit="document")
        pieces[split] = Again(_documents(path, f"data.{split}", section, bad), lambda piece: len(piece.text), path)
        notes[split] = bad.notes(sum(piece.last for piece in pieces[split]) + bad.count)
    parts: dict[str, Iterable[Piece]] = dict(pieces)
    if isinstance(section.validation, float) and "train" in pieces:
        parts["train"], parts["validation"] = _held_out(pieces["train"], section)
    if prepared is None:
        tokenizer = make_tokenizer(section.tokenizer, lambda: (piece.text for piece in parts["train"]))
    else:
        tokenizer = restore(prepared.get("tokenizer"))
        parts.pop("train", None)
    packed = {split: pack(part, tokenizer, section.sequence_length) for split, part in parts.items()}
    for split, one in packed.items():
        if one.tokens.size < 2:
            where = getattr(section, split) if isinstance(getattr(section, split), str) else section.train
            raise DataError(f"data.{split}: {where} holds no text to learn from; expected at least two tokens")
    info = _unigram(packed, tokenizer)
    order = [split for split in ("train", "validation", "test") if split in packed]
    return {
        split: windows_of(
            packed[split],
            section.sequence_length,
            tokenizer,
            info | {"documents": packed[split].documents} | _told(notes.get(split)),
        )
        for split in order
    }


def _documents(path: str, key: str, section: TextFiles, bad: BadRecords) -> Callable[[], Iterator[Piece]]:
    """Reads the documents of a path anew with each call; bad ones are told of in the first."""
    told = iter([bad])
    return lambda: _checked(path, key, section, next(told, BadRecords(1.0)))


def _checked(path: str, key: str, section: TextFiles, bad: BadRecords) -> Iterator[Piece]:
    """The documents of a path, in pieces; those that cannot be used are left out."""
    files = records.find(path, key).files
    for file in files:
        if records.kind_of(file) != "text":
            for record in records.read(file, [section.text], bad, section.delimiter):
                if (text := _text_of(record, section.text, bad, empty=True)) is not None:
                    yield Piece(text)
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


def _text_of(record: records.Record, column: str, bad: BadRecords, *, empty: bool = False) -> str | None:
    """The first value of a record, if it is text."""
    text = record.values[0]
    why = records.why_no_value(text, column, empty=empty)
    if why is not None:
        bad.add(record.where, why)
        return None
    return text


def _held_out(pieces: Again[Piece], section: TextFiles) -> tuple[Iterable[Piece], Iterable[Piece]]:
    """Some of the documents; or, of so few that none would be whole, the end of the text."""
    fraction = section.validation
    assert isinstance(fraction, float)
    documents = sum(piece.last for piece in pieces)
    if documents * fraction >= 1:
        _, held = held_out(np.zeros((documents, 1)), fraction, section.split_seed)
        chosen = np.zeros(documents + 1, bool)
        chosen[held] = True
        return _Documents(pieces, chosen, False), _Documents(pieces, chosen, True)
    characters = sum(len(piece.text) for piece in pieces)
    cut = characters - round(fraction * characters)
    return _Slice(pieces, 0, cut), _Slice(pieces, cut, characters)


class _Documents:
    """Those documents whose entry in `chosen` is as wanted."""

    def __init__(self, pieces: Again[Piece], chosen: np.ndarray, wanted: bool):
        self._pieces, self._chosen, self._wanted = pieces, chosen, wanted

    def __iter__(self) -> Iterator[Piece]:
        document = 0
        for piece in self._pieces:
            if self._chosen[document] == self._wanted:
                yield piece
            document += piece.last


class _Slice:
    """The characters `start..stop` of all documents."""

    def __init__(self, pieces: Again[Piece], start: int, stop: int):
        self._pieces, self._start, self._stop = pieces, start, stop

    def __iter__(self) -> Iterator[Piece]:
        at = 0
        for text, last in self._pieces:
            part = text[max(self._start - at, 0) : max(self._stop - at, 0)]
            at += len(text)
            if part:
                yield Piece(part, last or at >= self._stop)


def _unigram(packed: Mapping[str, Packed], tokenizer: Tokenizer) -> dict[str, float]:
    """The loss of a unigram model on the split that evaluations use, where there is one."""
    evaluated = packed.get("validation") or packed.get("test")
    if "train" not in packed or evaluated is None:
        return {}
    return {"unigram_nats": unigram_nats(packed["train"].tokens, evaluated.tokens, tokenizer.vocabulary)}


# -- labelled texts -------------------------------------------------------------------------------


def _open_labelled(section: TextFiles, task: str, prepared: Mapping[str, Any] | None) -> dict[str, Source]:
    columns = (section.label,) if isinstance(section.label, str) else section.label
    if not columns and (columns is not None or task != "classify"):
        raise ConfigError(f"data.label: the task {task} needs the name of the label's column, such as label: score")
    labels = labels_for(task, columns, None if prepared is None else prepared)
    texts: dict[str, Again[str]] = {}
    answers: dict[str, np.ndarray] = {}
    notes: dict[str, list[str]] = {}
    paths = _paths(section, prepared)
    for split, path in paths.items():
        bad = BadRecords(section.max_bad_fraction, unit="text")
        raw = [label for _, label in _labelled(path, f"data.{split}", section, labels, bad)]
        notes[split] = bad.notes(len(raw) + bad.count)
        if not raw:
            raise DataError(f"data.{split}: {path} holds no text")
        labels = labels.learned(raw, path) if split == "train" and prepared is None else labels
        answers[split] = labels.encoded(raw)
        texts[split] = Again(_texts(path, section, labels), len, path)
    stays = held = None
    if isinstance(section.validation, float) and "train" in answers:
        stays, held = held_out(answers["train"], section.validation, section.split_seed)
        if not len(stays):
            raise DataError(f"data.validation: {section.validation:g} of {len(answers['train'])} texts leaves none")
    scale = _scale(task, answers, stays, prepared)
    if prepared is None:
        tokenizer = make_tokenizer(section.tokenizer, lambda: _some(texts["train"], stays))
    else:
        tokenizer = restore(prepared.get("tokenizer"))
    encoded = {split: encode(texts[split], tokenizer, section.max_length) for split in texts}
    length = int(prepared["length"]) if prepared is not None else encoded["train"].length(section.max_length, stays)
    kept = {"tokenizer": dict(tokenizer.stored), "length": length, **labels.stored, **scale}
    made = {
        split: _labelled_source(
            one, answers[split], tokenizer, {**labels.info, **scale}, length, kept, section, notes[split]
        )
        for split, one in encoded.items()
    }
    if stays is not None and held is not None:
        made["train"], made["validation"] = parted(made["train"], stays, held)
    if prepared is not None:
        made.pop("train", None)
    return {split: made[split] for split in ("train", "validation", "test") if split in made}


def _scale(
    task: str, answers: dict[str, np.ndarray], stays: np.ndarray | None, prepared: Mapping[str, Any] | None
) -> dict[str, list[list[float]]]:
    """Standardizes the labels of a regression in place; returns the mean and the standard deviation of each target."""
    if task != "regress":
        return {}
    if prepared is None:
        trained = answers["train"] if stays is None else answers["train"][stays]
        mean, std = trained.mean(0, dtype=np.float64), trained.std(0, dtype=np.float64)
        pairs = np.stack([mean, np.where(std > 0, std, 1.0)], 1).tolist()
    else:
        pairs = prepared["target_scale"]
    mean, std = np.asarray(pairs).T
    for split, values in answers.items():
        answers[split] = ((values - mean) / std).astype(np.float32)
    return {"target_scale": pairs}


def _labelled(path: str, key: str, section: TextFiles, labels: Labels, bad: BadRecords) -> Iterator[tuple[str, Any]]:
    """The texts of a path with their labels; those that cannot be used are left out."""
    found = records.find(path, key)
    for file in found.files:
        for record in _with_labels(file, found.root, section, labels.columns, bad, key):
            text = _text_of(record, section.text, bad)
            if text is None:
                continue
            label, why = labels.read(record.values[1:])
            if why is not None:
                bad.add(record.where, why)
                continue
            yield text, label


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


def _texts(path: str, section: TextFiles, labels: Labels) -> Callable[[], Iterator[str]]:
    return lambda: (text for text, _ in _labelled(path, "data", section, labels, BadRecords(1.0)))


def _some(texts: Again[str], indices: np.ndarray | None) -> Iterator[str]:
    wanted = None if indices is None else set(indices.tolist())
    return (text for i, text in enumerate(texts) if wanted is None or i in wanted)


def _labelled_source(
    encoded: Encoded,
    answers: np.ndarray,
    tokenizer: Tokenizer,
    info: Mapping[str, Any],
    length: int,
    kept: Mapping[str, Any],
    section: TextFiles,
    notes: list[str],
) -> Source:
    told = {"vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer.kind, "max_length": length}
    source = padded(encoded, length, tokenizer, name="text", buckets=section.buckets)
    return source._replace(
        take=lambda indices: source.take(indices) | {"labels": answers[indices]},
        info=dict(info) | told | _told(notes + encoded.cut_note(length, section.max_length)),
        fingerprint=fingerprint(source.fingerprint, answers),
        prepared=kept,
        labels=lambda: answers,
    )


# -- what is predicted ----------------------------------------------------------------------------


def text_inputs(section: TextFiles, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens texts without labels, to predict.

    Args:
      section: the run's `data` section; `text` names the column, in files that have columns.
      task: the task's name.
      prepared: what the run has stored.
      paths: files; folders and globs, whose plain files are one text each; `-` for standard input. A plain file that is
        named by itself, and standard input, hold one text a line.

    Returns:
      A source as of `open_text`, without labels. `info["names"]` holds `file:line` of each text, and `info["bad"]` a
      sentence for each record that cannot be used.

    Raises:
      UsageError: the task predicts no texts.
      DataError: files are missing or cannot be read, or hold nothing.
    """
    if task == LANGUAGE:
        raise UsageError("a language model continues a text; use 'jaxprop generate RUN \"prompt\"'")
    return inputs_of(
        paths,
        prepared,
        limit=section.max_length,
        column=section.text,
        delimiter=section.delimiter,
    )


def inputs_of(
    paths: Sequence[str],
    prepared: Mapping[str, Any],
    *,
    limit: int,
    column: str = "text",
    delimiter: str | None = None,
    whole: bool = False,
    literal: bool = False,
) -> Source:
    """Opens texts without labels, whatever data the run was trained on.

    Args:
      paths: as of `text_inputs`.
      prepared: what the run has stored: `tokenizer` and `length`.
      limit: largest number of tokens of a text.
      column: of the text, in files that have columns.
      delimiter: between the columns of a CSV file.
      whole: refuse a text that is longer than the run's texts, instead of cutting it.
      literal: take what is no path of a file, a folder or a glob as a text itself.

    Raises:
      DataError: as of `text_inputs`.
    """
    bad = _Named()
    names, texts = [], []
    for path in paths:
        given = [records.Record(path, (path,))] if literal and _is_text(path) else None
        for record in _unlabelled(path, column, delimiter, bad) if given is None else given:
            if (text := _text_of(record, column, bad)) is not None:
                names.append(record.where)
                texts.append(text)
    if not texts and not bad.sentences:
        raise DataError(f"{', '.join(paths)}: holds no text to predict")
    tokenizer = restore(prepared.get("tokenizer"))
    length = int(prepared["length"])
    encoded = encode(texts, tokenizer, limit)
    if whole and (encoded.full > length).any():
        for i in np.flatnonzero(encoded.full > length).tolist():
            bad.add(names[i], f"has {encoded.full[i]} tokens, and the model reads {length}; split it into sentences")
        kept = np.flatnonzero(encoded.full <= length).tolist()
        names, texts = [names[i] for i in kept], [texts[i] for i in kept]
        encoded = encode(texts, tokenizer, limit)
    source = padded(encoded, length, tokenizer, name="text")
    told = {"vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer.kind, "max_length": length}
    return source._replace(info=told | {"names": names, "bad": bad.sentences} | _told(encoded.cut_note(length, limit)))


class _Named(BadRecords):
    """Bad records of what is predicted: each is told, and none is an error."""

    def __init__(self) -> None:
        super().__init__(1.0, unit="text")
        self.sentences: list[str] = []

    def add(self, where: str, why: str) -> None:
        self.sentences.append(f"{where}: {why}")


def _is_text(argument: str) -> bool:
    """Whether an argument is a text rather than a path: there is no such file, and it does not look like one's name."""
    path = os.path.expanduser(argument)  # not a Path, which fails where a text is longer than a name may be
    if argument == records.STDIN or os.path.exists(path):
        return False
    if any(c.isspace() for c in argument):
        return not (glob.has_magic(path) and glob.glob(path, recursive=True))
    return not (os.sep in argument or glob.has_magic(argument) or argument.lower().endswith(_SUFFIXES))


def _unlabelled(path: str, column: str, delimiter: str | None, bad: BadRecords) -> Iterator[records.Record]:
    if path == records.STDIN:
        yield from records.standard_input(bad)
        return
    alone = Path(path).expanduser().is_file()
    for file in records.find(path, "input").files:
        if records.kind_of(file) == "text" and not alone:
            yield from _whole_file(file, bad)
        else:
            yield from records.read(file, [column], bad, delimiter)


# -- shared ---------------------------------------------------------------------------------------


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


def _told(notes: list[str] | None) -> dict[str, list[str]]:
    return {"notes": notes} if notes else {}


TEXT = Reader(open=open_text, inputs=text_inputs)
