"""Texts become tokens, wherever they have been read from: windows that predict the next one, or labelled rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import TokenSection
from jaxprop.data import records
from jaxprop.data.again import Again, named
from jaxprop.data.bad import BadInputs, BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.labels import Labels, labels_for
from jaxprop.data.packing import Packed, Piece, pack, unigram_nats, windows_of
from jaxprop.data.padding import Encoded, encode, padded
from jaxprop.data.piped_texts import Form, Reading, piped_texts
from jaxprop.data.splits import held_out, parted
from jaxprop.data.standard_input import STDIN
from jaxprop.data.tokenizers import Tokenizer, make_tokenizer, restore
from jaxprop.errors import DataError
from jaxprop.types import Source

LANGUAGE = "language"


class Texts(NamedTuple):
    """Where the texts of a split come from.

    Args:
      documents: `(path, key, bad) ->` the documents of a path, in pieces; `key` is where the path was written, such as
        `data.train`.
      labelled: `(path, key, columns, bad) ->` records of a text and the values of the columns of its label.
      text: name of the column of the texts.
      columns: of the label; None for the folder that a file lies in.
      max_bad_fraction: fraction of the records that may be bad.
      order: names of classes in the order that the files give them.
    """

    documents: Callable[[str, str, BadRecords], Iterator[Piece]]
    labelled: Callable[[str, str, tuple[str, ...] | None, BadRecords], Iterator[records.Record]]
    text: str
    columns: tuple[str, ...] | None
    max_bad_fraction: float
    order: Sequence[str] = ()


def sources_of(
    section: TokenSection, task: str, prepared: Mapping[str, Any] | None, paths: Mapping[str, str], texts: Texts
) -> dict[str, Source]:
    """Turns texts into tokens, wherever they have been read from.

    Args:
      section: says what they become.
      task: its name.
      prepared: of an earlier run.
      paths: of the splits that are read.
      texts: reads them.
    """
    if task == LANGUAGE:
        return _open_language(section, prepared, paths, texts)
    return _open_labelled(section, task, prepared, paths, texts)


# -- language -------------------------------------------------------------------------------------


def _open_language(
    section: TokenSection, prepared: Mapping[str, Any] | None, paths: Mapping[str, str], texts: Texts
) -> dict[str, Source]:
    notes: dict[str, list[str]] = {}
    pieces: dict[str, Again[Piece]] = {}
    for split, path in paths.items():
        bad = BadRecords(texts.max_bad_fraction, unit="document")
        pieces[split] = Again(_reader(texts, path, f"data.{split}", bad), lambda piece: len(piece.text), path)
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
            where = paths.get(split, paths.get("train"))
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


def _reader(texts: Texts, path: str, key: str, bad: BadRecords) -> Callable[[], Iterator[Piece]]:
    """Reads the documents of a path anew with each call; bad ones are told of in the first."""
    told = iter([bad])
    return lambda: texts.documents(path, key, next(told, BadRecords(1.0)))


def documents_of(found: Iterable[records.Record], column: str, bad: BadRecords) -> Iterator[Piece]:
    """Yields records as documents, without those that are no text.

    Args:
      found: records whose first value is the text.
      column: its name.
      bad: takes what is no text.
    """
    for record in found:
        if (text := _text_of(record, column, bad, empty=True)) is not None:
            yield Piece(text)


def _text_of(record: records.Record, column: str, bad: BadRecords, *, empty: bool = False) -> str | None:
    """The first value of a record, if it is text."""
    text = record.values[0]
    why = records.why_no_value(text, column, empty=empty)
    if why is not None:
        bad.add(record.where, why)
        return None
    return text


def _held_out(pieces: Again[Piece], section: TokenSection) -> tuple[Iterable[Piece], Iterable[Piece]]:
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


def _open_labelled(
    section: TokenSection, task: str, prepared: Mapping[str, Any] | None, paths: Mapping[str, str], given: Texts
) -> dict[str, Source]:
    labels = labels_for(task, given.columns, prepared, given.order)
    texts: dict[str, Again[str]] = {}
    answers: dict[str, np.ndarray] = {}
    notes: dict[str, list[str]] = {}
    for split, path in paths.items():
        bad = BadRecords(given.max_bad_fraction, unit="text")
        raw = [label for _, _, label in _labelled(given, path, f"data.{split}", labels, bad)]
        notes[split] = bad.notes(len(raw) + bad.count)
        if not raw:
            raise DataError(f"data.{split}: {path} holds no text")
        labels = labels.learned(raw, path) if split == "train" and prepared is None else labels
        answers[split] = labels.encoded(raw)
        texts[split] = Again(_texts(given, path, f"data.{split}", labels), len, path)
    stays = held = None
    if isinstance(section.validation, float) and "train" in answers:
        stays, held = held_out(answers["train"], section.validation, section.split_seed)
        if not len(stays):
            raise DataError(f"data.validation: {section.validation:g} of {len(answers['train'])} texts leaves none")
    scale = _scale(task, answers, stays, prepared)
    if prepared is None:
        tokenizer = make_tokenizer(section.tokenizer, lambda: _some(texts["train"], stays), section.special_tokens)
    else:
        tokenizer = restore(prepared.get("tokenizer"))
    encoded = {split: encode(texts[split], tokenizer, section.max_length) for split in texts}
    length = int(prepared["length"]) if prepared is not None else encoded["train"].length(section.max_length, stays)
    kept = {"tokenizer": dict(tokenizer.stored), "length": length, **labels.stored, **scale}
    made = {
        split: _labelled_source(
            one, answers[split], tokenizer, {**labels.info, **scale}, length, kept, section, notes[split]
        )._replace(names=named(partial(_places, given, paths[split], f"data.{split}", labels)))
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


def _labelled(texts: Texts, path: str, key: str, labels: Labels, bad: BadRecords) -> Iterator[tuple[str, str, Any]]:
    """The place, the text and the label of each record of a path; those that cannot be used are left out."""
    for record in texts.labelled(path, key, labels.columns, bad):
        text = _text_of(record, texts.text, bad)
        if text is None:
            continue
        label, why = labels.read(record.values[1:])
        if why is not None:
            bad.add(record.where, why)
            continue
        yield record.where, text, label


def _places(texts: Texts, path: str, key: str, labels: Labels) -> Iterator[str]:
    return (where for where, _, _ in _labelled(texts, path, key, labels, BadRecords(1.0)))


def _texts(texts: Texts, path: str, key: str, labels: Labels) -> Callable[[], Iterator[str]]:
    return lambda: (text for _, text, _ in _labelled(texts, path, key, labels, BadRecords(1.0)))


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
    section: TokenSection,
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


def _told(notes: list[str] | None) -> dict[str, list[str]]:
    return {"notes": notes} if notes else {}


# -- what is predicted ----------------------------------------------------------------------------


def inputs_of(
    paths: Sequence[str],
    prepared: Mapping[str, Any],
    *,
    limit: int,
    column: str,
    read: Callable[[str, BadRecords], Iterable[records.Record]],
    form: Form | None = None,
    whole: bool = False,
) -> Source | Iterator[Source]:
    """Opens texts without labels, whatever data the run was trained on.

    Args:
      paths: what is read; `-` for standard input.
      prepared: what the run has stored: `tokenizer` and `length`.
      limit: largest number of tokens of a text.
      column: name of the texts in messages.
      read: `(path, bad) ->` records of a text each, of every path that is not standard input.
      form: of the records that the run was trained on, if its texts stood in a column; standard input may hold such.
      whole: refuse a text that is longer than the run's texts, instead of cutting it.

    Returns:
      A source without labels. `info["names"]` says where each text stands, and `info["bad"]` holds the records that
      cannot be used. With standard input among the paths, sources of lines as they come.

    Raises:
      DataError: the only path cannot be read, or there is no text.
    """
    tokenizer, length = restore(prepared.get("tokenizer")), int(prepared["length"])

    def source_of(found: Iterable[records.Record], bad: BadInputs) -> Source:
        names, texts = [], []
        for record in found:
            text = _text_of(record, column, bad)
            size = 0 if text is None or not whole else int(encode([text], tokenizer, limit).full[0])
            if size > length:
                bad.add(record.where, f"has {size} tokens, and the model reads {length}; split it into sentences")
            elif text is not None:
                names.append(record.where)
                texts.append(text)
                bad.good += 1
        encoded = encode(texts, tokenizer, limit)
        told = {"vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer.kind, "max_length": length}
        told |= {"names": names, "bad": bad.found} | _told(encoded.cut_note(length, limit))
        return padded(encoded, length, tokenizer, name="text")._replace(info=told)

    def of_files(files: Sequence[str]) -> Source:
        bad = BadInputs(files)
        source = source_of(_of_paths(files, read, bad), bad)
        if not source.length and not bad.found:
            raise DataError(f"{', '.join(files)}: holds no text to predict")
        return source

    def of_lines(reading: Reading) -> Source:
        bad = BadInputs()
        return source_of(reading(bad), bad)

    if STDIN not in paths:
        return of_files(paths)
    groups = itertools.groupby(paths, key=lambda path: path == STDIN)
    return itertools.chain.from_iterable(
        map(of_lines, piped_texts(form)) if piped else iter([of_files(list(group))]) for piped, group in groups
    )


def _of_paths(
    paths: Sequence[str], read: Callable[[str, BadRecords], Iterable[records.Record]], bad: BadInputs
) -> Iterator[records.Record]:
    for path in paths:
        with bad.reading(path):
            yield from read(path, bad)
