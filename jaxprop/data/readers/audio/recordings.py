"""Recordings as a source: samples padded at the right, transcripts as numbers, batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.audio.alphabet import Alphabet
from jaxprop.types import Buckets, Source

UNIT = 0.1  # lengths are rounded up to a multiple of so many seconds, so that other data seldom change the program
Wave = Callable[[int], "np.ndarray | None"]  # the samples of a recording, float32 in -1..1; None where it is damaged


def rounded(samples: int, rate: int) -> int:
    """Returns a number of samples, rounded up to a multiple of `UNIT` seconds.

    Example:
      >>> rounded(16001, 16000)
      17600
    """
    unit = max(round(rate * UNIT), 1)
    return max(-(-samples // unit), 1) * unit


def padded(waves: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recordings as rows float32 `[B, N]` and their numbers of samples, int32 `[B]`; longer ones are cut.

    Example:
      >>> [x.tolist() for x in padded([np.ones(1), np.ones(3)], 2)]
      [[[1.0, 0.0], [1.0, 1.0]], [1, 2]]
    """
    rows = np.zeros((len(waves), length), np.float32)
    for row, wave in zip(rows, waves, strict=True):
        row[: min(len(wave), length)] = wave[:length]
    return rows, np.array([min(len(wave), length) for wave in waves], np.int32)


def recordings(
    name: str,
    wave: Wave,
    lengths: np.ndarray,
    texts: Sequence[str],
    alphabet: Alphabet,
    *,
    rate: int,
    buckets: int = 1,
    notes: Sequence[str] = (),
    identity: str = "",
) -> Source:
    """Returns recordings with transcripts as a source.

    Args:
      name: of the reader, for the fingerprint.
      wave: `(index) -> samples`, float32 `[n]`; None where only now a recording turns out to be damaged.
      lengths: number of samples of each.
      texts: their transcripts.
      alphabet: of the characters.
      rate: samples a second.
      buckets: number of lengths that training batches may have, each of about as many recordings.
      notes: what a person is told of the data.
      identity: a digest of what the recordings hold.

    Returns:
      A source of `inputs` float32 `[B, N]`, `input_lengths` int32 `[B]`, `labels` int32 `[B, L]` padded with 0 and
      `label_lengths` int32 `[B]`; and of `weight`, 0 for a damaged recording, where there is one. `info` holds
      `vocabulary`, with the blank, `sample_rate` and `characters`.
    """
    lengths = np.asarray(lengths, np.int64)
    encoded = [alphabet.encode(text) for text in texts]
    counts = np.array([len(one) for one in encoded], np.int32)
    labels = np.zeros((len(texts), int(counts.max(initial=1))), np.int32)
    for row, one in zip(labels, encoded, strict=True):
        row[: len(one)] = one
    longest = rounded(int(lengths.max(initial=1)), rate)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        found = [wave(index) for index in indices.tolist()]
        inputs, held = padded([np.zeros(0, np.float32) if one is None else one for one in found], longest)
        batch = {
            "inputs": inputs,
            "input_lengths": held,
            "labels": labels[indices],
            "label_lengths": counts[indices],
        }
        damaged = [one is None for one in found]
        return batch | ({"weight": 1 - np.array(damaged, np.float32)} if any(damaged) else {})

    info: dict[str, Any] = {
        "vocabulary": alphabet.vocabulary,
        "sample_rate": rate,
        "characters": alphabet.characters,
    }
    return Source(
        length=len(texts),
        take=take,
        info=info | ({"notes": list(notes)} if notes else {}),
        fingerprint=fingerprint(name, str(rate), str(buckets), "".join(alphabet.characters), identity, lengths, labels),
        prepared={"characters": alphabet.characters, "sample_rate": rate},
        labels=lambda: labels,
        buckets=_buckets(lengths, longest, rate, buckets),
    )


def _buckets(lengths: np.ndarray, longest: int, rate: int, count: int) -> Buckets | None:
    inner = np.quantile(lengths, np.arange(1, count) / count, method="inverted_cdf") if count > 1 else []
    sizes = tuple(sorted({rounded(int(size), rate) for size in inner} | {longest}))
    if len(sizes) == 1:
        return None
    places = np.searchsorted(sizes, lengths)

    def cut(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        return {**batch, "inputs": batch["inputs"][:, :size]}

    return Buckets(sizes, lambda: places, cut)
