"""Texts of any length as rows of one length: padded at the right, cut where they are longer, with their mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.packing import Store, dtype_for
from jaxprop.data.tokenizers import Tokenizer, digest_of
from jaxprop.types import Buckets, Source

_TOGETHER = 1024  # texts that are encoded in one call
_UNIT = 8  # lengths are rounded up to a multiple, so that an example more or less seldom changes the program
_PADDED = ("inputs", "input_mask")


class Encoded(NamedTuple):
    """Texts as tokens, one after the other.

    Args:
      tokens: of all texts, `[n]`, each cut at the largest length.
      starts: where each text begins, and `n`, int64 `[N + 1]`.
      full: the length of each text before it was cut, int64 `[N]`.
    """

    tokens: np.ndarray
    starts: np.ndarray
    full: np.ndarray

    def length(self, limit: int, indices: np.ndarray | None = None) -> int:
        """The length that all texts, or those of some indices, are padded to: the longest, rounded up to `limit`."""
        sizes = np.diff(self.starts)
        longest = int((sizes if indices is None else sizes[indices]).max(initial=1))
        return min(-(-longest // _UNIT) * _UNIT, limit)

    def cut_note(self, length: int, limit: int) -> list[str]:
        """A sentence on the texts that are longer than rows are, if there are any."""
        cut = int((self.full > length).sum())
        if not cut:
            return []
        why = f"data.max_length ({limit})" if length >= limit else f"the longest training text ({length})"
        longest = int(self.full.max())
        return [f"{cut} of {len(self.full)} texts are longer than {why} and are cut; the longest has {longest} tokens"]


def encode(texts: Iterable[str], tokenizer: Tokenizer, limit: int) -> Encoded:
    """Encodes texts, each cut at a length. A text of which a tokenizer leaves nothing is the token for the end.

    Args:
      texts: in order.
      tokenizer: makes the tokens.
      limit: largest number of tokens of a text.

    Example:
      >>> from jaxprop.data.tokenizers import of_bytes
      >>> encode(["abc", "d"], of_bytes(), 2)
      Encoded(tokens=array([ 97,  98, 100], dtype=uint8), starts=array([0, 2, 3]), full=array([3, 1]))
    """
    store, full = Store(dtype_for(tokenizer.vocabulary)), []
    end = tokenizer.encode([""])[0][-1:] if tokenizer.stored.get("special_tokens") else ()
    for group in _groups(texts):
        for tokens in tokenizer.encode(group):
            tokens = tokens if tokens.size else np.array([tokenizer.end])
            full.append(tokens.size)
            cut = tokens[:limit]
            if tokens.size > limit and tokens[-1] in end:  # such as [SEP], which stays the last token
                cut = np.concatenate([cut[:-1], tokens[-1:]])
            store.append(cut)
    sizes = np.array(full, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(sizes, limit))])
    return Encoded(store.array(), starts, sizes)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == _TOGETHER:
            yield group
            group = []
    if group:
        yield group


def rows(encoded: Encoded, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns texts as rows of one length, int32 `[B, T]`, and 1 where they hold text, float32 `[B, T]`.

    Args:
      encoded: the texts.
      indices: int `[B]`.
      length: T.

    Example:
      >>> encoded = Encoded(np.array([5, 6, 7]), np.array([0, 2, 3]), np.array([2, 1]))
      >>> [x.tolist() for x in rows(encoded, np.array([0, 1]), 3)]
      [[[5, 6, 0], [7, 0, 0]], [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]
    """
    places = encoded.starts[indices][:, None] + np.arange(length)  # [B, T]
    held = places < encoded.starts[indices + 1][:, None]
    tokens = encoded.tokens[np.minimum(places, encoded.tokens.size - 1)]
    return np.where(held, tokens, 0).astype(np.int32), held.astype(np.float32)


def padded(encoded: Encoded, length: int, tokenizer: Tokenizer, name: str, buckets: int = 1) -> Source:
    """Returns texts as a source of `inputs` int32 `[B, T]` and `input_mask` float32 `[B, T]`.

    The mask has a key of its own, since `mask` is of the labels.

    Args:
      encoded: the texts.
      length: T.
      tokenizer: that has made the tokens.
      name: of the reader, for the fingerprint.
      buckets: number of lengths that training batches may have, each of about as many texts.
    """

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs, mask = rows(encoded, indices, length)
        return {"inputs": inputs, "input_mask": mask}

    held = np.minimum(np.diff(encoded.starts), length)
    sizes = sizes_of(held, length, buckets)
    places = np.searchsorted(sizes, held)
    identity = (name, str(length), digest_of(tokenizer), *([str(sizes)] if len(sizes) > 1 else []))
    return Source(
        length=len(encoded.full),
        take=take,
        info={},
        fingerprint=fingerprint(*identity, encoded.starts, encoded.tokens),
        buckets=Buckets(sizes, lambda: places, _cut) if len(sizes) > 1 else None,
    )


def sizes_of(held: np.ndarray, length: int, buckets: int) -> tuple[int, ...]:
    """Returns the lengths of buckets that hold about as many texts each.

    Args:
      held: the length of each text.
      length: of the last bucket.
      buckets: their number; fewer where texts have fewer lengths.

    Example:
      >>> sizes_of(np.array([3, 9, 15, 30]), 32, 2)
      (16, 32)
    """
    if buckets == 1:
        return (length,)
    inner = np.quantile(held, np.arange(1, buckets) / buckets, method="inverted_cdf")
    rounded = {min(-(-int(size) // _UNIT) * _UNIT, length) for size in inner}
    return tuple(sorted(rounded | {length}))


def _cut(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    return {key: value[:, :size] if key in _PADDED else value for key, value in batch.items()}
