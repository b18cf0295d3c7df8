"""Tokenizers: text to integers and back, stored with the run as JSON so that it is all that later commands need."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import TrainedTokenizer
from jaxprop.errors import DataError, MissingExtraError, did_you_mean

BYTES = "bytes"
_END = "<|end|>"  # of a tokenizer trained here
# What files call the tokens at the ends of a text; the first that a file has is used.
_BEGINS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "[BOS]")
_ENDS = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", _END, "[SEP]", "[EOS]")
_MAX_FILE = 256 * 2**20


class Tokenizer(NamedTuple):
    """Text to tokens and back.

    Args:
      kind: `bytes`, `tokenizers` or `sentencepiece`.
      vocabulary: number of tokens V; tokens are 0..V-1.
      begin: the token before a text that is to be written, as in translation.
      end: the token after a text, and between documents.
      encode: texts -> tokens of each, integer arrays.
      measured: texts -> tokens of each, and how many bytes of the text each token stands for: they add up to the bytes
        of the text, whatever the tokenizer changes or drops.
      decode: tokens -> text; tokens at the ends of texts are left out, and broken UTF-8 is replaced.
      stored: JSON values from which `restore` makes it again.
    """

    kind: str
    vocabulary: int
    begin: int
    end: int
    encode: Callable[[Sequence[str]], list[np.ndarray]]
    measured: Callable[[Sequence[str]], list[tuple[np.ndarray, np.ndarray]]]
    decode: Callable[[Sequence[int]], str]
    stored: Mapping[str, Any]


def make_tokenizer(
    wanted: str | TrainedTokenizer, texts: Callable[[], Iterable[str]], special_tokens: bool = False
) -> Tokenizer:
    """Makes the tokenizer that a configuration names.

    Args:
      wanted: `bytes`, the path of a file, or how to train one.
      texts: gives the training texts, for one that is trained.
      special_tokens: whether its own tokens are put around a text, such as [CLS] and [SEP].

    Returns:
      The tokenizer.

    Raises:
      DataError: the file is missing or holds no tokenizer, or there is no text to train one on.
      MissingExtraError: the library that reads or trains it is not installed.

    Example:
      >>> tokenizer = make_tokenizer("bytes", lambda: [])
      >>> tokenizer.encode(["hi"])[0].tolist(), tokenizer.decode([104, 105])
      ([104, 105], 'hi')
    """
    if isinstance(wanted, TrainedTokenizer):
        made = train_bpe(texts(), wanted.vocabulary)
    else:
        made = of_bytes() if wanted == BYTES else load(wanted)
    return with_special_tokens(made) if special_tokens else made


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a tokenizer that puts the tokens around a text that its file has for that, such as [CLS] and [SEP].

    Raises:
      DataError: it has none.
    """
    if tokenizer.kind == "tokenizers":
        framed = _of_tokenizers(tokenizer.stored["json"], "the tokenizer", special_tokens=True)
        if framed.encode([""])[0].size:
            return framed
    raise DataError(
        "data.special_tokens: the tokenizer puts no tokens around a text; name a tokenizer.json that does, as that of "
        "BERT, or write special_tokens: false"
    )


def restore(stored: Mapping[str, Any] | None) -> Tokenizer:
    """Makes a tokenizer from what is stored with a run, `prepared["tokenizer"]`; that of bytes where nothing is.

    Raises:
      DataError: what is stored is damaged.
      MissingExtraError: its library is not installed.

    Example:
      >>> restore({"kind": "bytes"}).vocabulary
      256
    """
    kind = BYTES if stored is None else stored.get("kind")
    if kind == BYTES:
        return of_bytes()
    try:
        if stored is not None and kind == "tokenizers":
            return _of_tokenizers(stored["json"], "the stored tokenizer", bool(stored.get("special_tokens")))
        if stored is not None and kind == "sentencepiece":
            return _of_sentencepiece(base64.b64decode(stored["model"]), "the stored tokenizer")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError | MissingExtraError):
            raise
    raise DataError("the tokenizer stored with the run is damaged; train the run again")


def of_bytes() -> Tokenizer:
    """Returns the tokenizer of UTF-8 bytes; 0, which no text holds, stands at the ends of texts.

    Example:
      >>> of_bytes().encode(["é"])[0].tolist(), of_bytes().decode([195, 169, 0])
      ([195, 169], 'é')
    """

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    return Tokenizer(
        kind=BYTES,
        vocabulary=256,
        begin=0,
        end=0,
        encode=encode,
        measured=lambda texts: [(tokens, np.ones(len(tokens), np.int64)) for tokens in encode(texts)],
        decode=lambda tokens: bytes(t for t in map(int, tokens) if 0 < t < 256).decode("utf-8", "replace"),
        stored={"kind": BYTES},
    )


def load(path: str) -> Tokenizer:
    """Reads a `tokenizer.json` of the library tokenizers, or a SentencePiece model.

    Args:
      path: of the file; its content tells which of the two it is.

    Raises:
      DataError: the file is missing, or holds no tokenizer.
      MissingExtraError: its library is not installed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        if path in ("bpe", "unigram", "wordpiece", "sentencepiece"):
            raise DataError(
                f"data.tokenizer: to train one, write tokenizer: {{train: bpe, vocabulary: 4000}}, not {path}"
            )
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        what = "is a folder" if file.is_dir() else "no such file"
        raise DataError(
            f"data.tokenizer: {path}: {what}{did_you_mean(file.name, [BYTES, *beside])}; expected bytes, a "
            "tokenizer.json, a SentencePiece model, or {train: bpe, vocabulary: 4000}"
        )
    try:
        if file.stat().st_size > _MAX_FILE:
            raise DataError(f"data.tokenizer: {path} is larger than {_MAX_FILE >> 20} MiB, which no tokenizer is")
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"data.tokenizer: {path} cannot be read: {error.strerror}") from error
    if content.lstrip()[:1] == b"{":
        return _of_tokenizers(content.decode("utf-8", "replace"), path)
    return _of_sentencepiece(content, path)


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Trains byte-level byte-pair encoding; the same texts give the same tokenizer.

    All 256 bytes are tokens, so that any text can be encoded and comes back unchanged.

    Args:
      texts: to train on, in any pieces.
      vocabulary: number of tokens, V > 256; fewer where the texts hold fewer pairs.

    Raises:
      MissingExtraError: the library tokenizers is not installed.

    Example:
      >>> tokenizer = train_bpe(["low lower lowest"] * 10, 262)
      >>> tokenizer.vocabulary, tokenizer.decode(tokenizer.encode(["slow é"])[0])
      (262, 'slow é')

    Reference:
      Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016; Radford et al., Language
      Models are Unsupervised Multitask Learners, 2019 (on bytes).
    """
    _need("tokenizers", "data.tokenizer: {train: bpe}")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return _of_tokenizers(made.to_str(), "the trained tokenizer")


# -- libraries ------------------------------------------------------------------------------------


def _of_tokenizers(text: str, name: str, special_tokens: bool = False) -> Tokenizer:
    _need("tokenizers", name)
    import tokenizers

    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"{name} is no tokenizer of the library tokenizers ({_first_line(error)}); save one with "
            "Tokenizer.save('tokenizer.json')"
        ) from error
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True  # a text that spells such a token out must not become one
    names = inner.get_vocab(with_added_tokens=True)
    size = max(names.values(), default=-1) + 1
    if not size:
        raise DataError(f"{name} has no tokens; train it before it is saved")
    begin, end, vocabulary = _ends(
        size, *(next((names[n] for n in known if n in names), -1) for known in (_BEGINS, _ENDS))
    )

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        found = inner.encode_batch_fast(list(texts), add_special_tokens=special_tokens)  # without offsets
        return [np.asarray(one.ids, np.int64) for one in found]

    def measured(texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (np.asarray(one.ids, np.int64), _sizes(text, [stop for _, stop in one.offsets]))
            for text, one in zip(texts, inner.encode_batch(list(texts), add_special_tokens=False), strict=True)
        ]

    return Tokenizer(
        kind="tokenizers",
        vocabulary=vocabulary,
        begin=begin,
        end=end,
        encode=encode,
        measured=measured,
        decode=lambda tokens: inner.decode([t for t in map(int, tokens) if t < size], skip_special_tokens=True),
        stored={"kind": "tokenizers", "json": text} | ({"special_tokens": True} if special_tokens else {}),
    )


def _of_sentencepiece(content: bytes, name: str) -> Tokenizer:
    _need("sentencepiece", name)
    import sentencepiece

    inner = sentencepiece.SentencePieceProcessor()
    if not hasattr(inner, "EncodeAsOffsetMapping"):
        raise MissingExtraError("sentencepiece>=0.2.3", name, "-U sentencepiece")
    try:
        inner.LoadFromSerializedProto(content)
        size = inner.GetPieceSize()
    except Exception as error:  # the library raises RuntimeError, and others in other versions
        raise DataError(
            f"{name} is neither a tokenizer.json nor a SentencePiece model; expected one of these, or bytes"
        ) from error
    if not size:
        raise DataError(
            f"{name} is neither a tokenizer.json nor a SentencePiece model; expected one of these, or bytes"
        )
    begin, end, vocabulary = _ends(size, inner.bos_id(), inner.eos_id())

    def measured(texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        told = inner.EncodeAsOffsetMapping(list(texts))
        return [
            (np.asarray(one["ids"], np.int64), _sizes(text, [stop for _, stop in one["offsets"]]))
            for text, one in zip(texts, told, strict=True)
        ]

    return Tokenizer(
        kind="sentencepiece",
        vocabulary=vocabulary,
        begin=begin,
        end=end,
        encode=lambda texts: [np.asarray(ids, np.int64) for ids in inner.EncodeAsIds(list(texts))],
        measured=measured,
        decode=lambda tokens: inner.DecodeIds([t for t in map(int, tokens) if t < size and t not in (begin, end)]),
        stored={"kind": "sentencepiece", "model": base64.b64encode(content).decode()},
    )


def _ends(size: int, begin: int, end: int) -> tuple[int, int, int]:
    """The tokens at the ends of a text, and the vocabulary: it grows by one where a file has no token for the end."""
    vocabulary = size + (end < 0)
    end = size if end < 0 else end
    return (end if begin < 0 else begin), end, vocabulary


def _sizes(text: str, stops: Sequence[int]) -> np.ndarray:
    """Bytes of a text that each token stands for, given the character after each; the last takes what is left."""
    if not stops:
        return np.zeros(0, np.int64)
    code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    width = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
    until = np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])  # bytes before each character
    ends = until[np.clip(np.maximum.accumulate(np.asarray(stops, np.int64)), 0, len(code))]
    ends[-1] = until[-1]
    return np.diff(ends, prepend=0)


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError(package, what)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def digest_of(tokenizer: Tokenizer) -> str:
    """Returns what tells one tokenizer from another, for a fingerprint of data."""
    return json.dumps(tokenizer.stored, sort_keys=True)
