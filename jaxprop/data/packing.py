"""Texts packed into windows of tokens that predict their next ones, and numbers that need not fit in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.tokenizers import BYTES, Tokenizer, digest_of
from jaxprop.errors import DataError
from jaxprop.types import Source

IN_MEMORY = 256 * 2**20  # bytes of tokens; more lie in a temporary file
_COUNT_BLOCK = 2**20
_TOGETHER = 2**20  # characters that are encoded in one call


class Store:
    """Integers that are appended and then read by index: in memory, and beyond a size in a temporary file.

    The file has no name and disappears with the process.

    Args:
      dtype: of the integers.
      limit: bytes that are kept in memory.

    Example:
      >>> store = Store(np.uint8, limit=2)
      >>> store.append([1, 2]), store.append([3])
      (None, None)
      >>> store.array().tolist()
      [1, 2, 3]
    """

    def __init__(self, dtype: Any, limit: int | None = None):
        self.length = 0
        self._dtype = np.dtype(dtype)
        self._limit = IN_MEMORY if limit is None else limit
        self._parts: list[np.ndarray] = []
        self._file: Any = None

    def append(self, values: Any) -> None:
        """Appends integers; raises DataError where the disk is full."""
        part = np.asarray(values, self._dtype)
        self.length += part.size
        if self._file is None and self.length * self._dtype.itemsize > self._limit:
            self._file = _unnamed_file()
            waiting, self._parts = [*self._parts, part], []
        elif self._file is None:
            self._parts.append(part)
            return
        else:
            waiting = [part]
        try:
            for one in waiting:
                self._file.write(one.tobytes())
        except OSError as error:
            raise DataError(
                f"the tokens of the data do not fit in {tempfile.gettempdir()} ({error.strerror}); set the environment "
                "variable TMPDIR to a folder on a larger disk"
            ) from error

    def array(self) -> np.ndarray:
        """Returns everything that was appended, memory-mapped where it is large. Nothing more is appended then."""
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else np.zeros(0, self._dtype)
        with self._file:  # the map outlives it
            self._file.flush()
            return np.memmap(self._file, self._dtype, mode="r", shape=(self.length,))


def _unnamed_file() -> IO[bytes]:
    descriptor, name = tempfile.mkstemp(prefix="jaxprop-")
    os.unlink(name)
    return os.fdopen(descriptor, "w+b")


def dtype_for(vocabulary: int) -> Any:
    """Returns the smallest unsigned dtype that holds the tokens of a vocabulary.

    Example:
      >>> dtype_for(256).__name__, dtype_for(257).__name__
      ('uint8', 'uint16')
    """
    return np.uint8 if vocabulary <= 2**8 else np.uint16 if vocabulary <= 2**16 else np.uint32


class Piece(NamedTuple):
    """A part of a document, and whether it is the document's last."""

    text: str
    last: bool = True


class Packed(NamedTuple):
    """Documents as one sequence of tokens, each followed by the token for the end.

    Args:
      tokens: integers `[n]`.
      bytes: how many bytes of text the tokens stand for that each window predicts, `[windows]`; an end counts as one.
      documents: their number; those without text are not counted.
      text_bytes: bytes of all documents with their ends.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    documents: int
    text_bytes: int


def pack(pieces: Iterable[Piece], tokenizer: Tokenizer, length: int) -> Packed:
    """Encodes documents into one sequence.

    Args:
      pieces: of the documents, in order.
      tokenizer: makes the tokens.
      length: tokens that a window predicts, T.

    Raises:
      DataError: the disk is full.

    Example:
      >>> from jaxprop.data.tokenizers import of_bytes
      >>> packed = pack([Piece("ab"), Piece("c")], of_bytes(), 2)
      >>> packed.tokens.tolist(), packed.bytes.tolist(), packed.documents
      ([97, 98, 0, 99, 0], [2, 2], 2)
    """
    store = Store(dtype_for(tokenizer.vocabulary))
    in_windows = np.zeros(1024, np.int64)
    documents = text_bytes = 0
    begun = False
    for group in _groups(pieces):
        for piece, (tokens, sizes) in zip(group, tokenizer.measured([p.text for p in group]), strict=True):
            told = len(piece.text.encode())
            begun |= told > 0
            if piece.last and begun:
                # what no token stands for, such as a space that a tokenizer drops, is told with the end
                tokens, sizes = np.append(tokens, tokenizer.end), np.append(sizes, 1 + told - sizes.sum())
                documents, begun = documents + 1, False
            positions = store.length + np.arange(len(tokens))
            predicted = positions[positions > 0]
            if predicted.size:
                windows = (predicted - 1) // length
                while windows[-1] >= in_windows.size:
                    in_windows = np.concatenate([in_windows, np.zeros_like(in_windows)])
                first = windows[0]
                sums = np.bincount(windows - first, weights=sizes[positions > 0]).astype(np.int64)
                in_windows[first : first + sums.size] += sums
            store.append(tokens)
            text_bytes += int(sizes.sum())
    count = -(-max(store.length - 1, 0) // length)
    return Packed(store.array(), in_windows[:count], documents, text_bytes)


def _groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece.text)
        if size >= _TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def windows_of(
    packed: Packed, length: int, tokenizer: Tokenizer, info: Mapping[str, Any], name: str = "text"
) -> Source:
    """Returns windows of T tokens that each predict the next one, so that every token but the first is predicted once.

    Window i holds the tokens `iT..iT+T` and predicts the last T of them. The last window is padded with zeros whose
    `mask` is 0.

    Args:
      packed: the documents.
      length: T.
      tokenizer: that has made the tokens.
      info: of the source, beside the `vocabulary`, the `tokenizer`, and the number of `bytes`.
      name: of the reader, for the fingerprint.

    Returns:
      A source of inputs and labels int32 `[B, T]` and mask float32 `[B, T]`; and, unless tokens are bytes, `bytes`
      float32 `[B]`, which the labels stand for.
    """
    tokens, total = packed.tokens, packed.tokens.size
    count = -(-(total - 1) // length)
    steps = np.arange(length + 1)
    of_bytes = tokenizer.kind == BYTES

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        places = indices[:, None] * length + steps  # [B, T + 1]
        held = places < total
        window = np.where(held, tokens[np.minimum(places, total - 1)], 0).astype(np.int32)
        batch = {"inputs": window[:, :-1], "labels": window[:, 1:], "mask": held[:, 1:].astype(np.float32)}
        return batch if of_bytes else batch | {"bytes": packed.bytes[indices].astype(np.float32)}

    told = {"vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer.kind, "bytes": packed.text_bytes}
    identity = (name, str(length)) if of_bytes else (name, str(length), digest_of(tokenizer))
    return Source(
        length=count,
        take=take,
        info=told | dict(info),
        fingerprint=fingerprint(*identity, tokens),
        prepared={"tokenizer": dict(tokenizer.stored)},
    )


def unigram_nats(train: np.ndarray, test: np.ndarray, vocabulary: int = 256) -> float:
    """Returns the cross-entropy of a model that knows only how often each token occurs.

        -1/n sum_i log p(test_i),   p(t) = (count_train(t) + 1) / (len(train) + V)

    The sum is over the n test tokens that the windows predict: all but the first.

    Args:
      train: integers `[tokens]`.
      test: integers `[n + 1]`.
      vocabulary: V.

    Returns:
      Cross-entropy in nats/token.

    Example:
      >>> round(unigram_nats(np.zeros(0, np.uint8), np.arange(9, dtype=np.uint8)), 4)  # log 256
      5.5452
    """
    log_p = np.log((token_counts(train, vocabulary) + 1) / (train.size + vocabulary))
    return float(-(token_counts(test[1:], vocabulary) @ log_p) / (test.size - 1))


def token_counts(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Returns how often each token of a vocabulary occurs, int64 `[V]`.

    Example:
      >>> token_counts(np.array([2, 0, 2]), 4).tolist()
      [1, 0, 2, 0]
    """
    # In blocks, because bincount converts its argument to eight bytes per value.
    counts = np.zeros(vocabulary, np.int64)
    for start in range(0, tokens.size, _COUNT_BLOCK):
        counts += np.bincount(tokens[start : start + _COUNT_BLOCK], minlength=vocabulary)
    return counts
