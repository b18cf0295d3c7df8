"""The characters of transcripts, and transcripts as their numbers; 0 is the blank of CTC."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def normalized(text: str) -> str:
    """Returns a transcript in composed characters (NFC), with single spaces and none at its ends.

    Example:
      >>> normalized(" two\\t three \\n")
      'two three'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


class Alphabet:
    """The characters that transcripts are made of, numbered from 1.

    Args:
      characters: in order.

    Example:
      >>> alphabet = Alphabet.of(["ab", "b a"])
      >>> alphabet.characters, alphabet.encode("ba").tolist(), alphabet.unknown("abc")
      ([' ', 'a', 'b'], [3, 2], 'c')
    """

    def __init__(self, characters: Sequence[str]):
        self.characters = list(characters)
        self._number = {character: i for i, character in enumerate(self.characters, 1)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> Alphabet:
        """Returns the alphabet of transcripts, in the order of code points."""
        return cls(sorted(set().union(*map(set, texts))))

    @classmethod
    def restored(cls, prepared: Mapping[str, Any]) -> Alphabet:
        """Returns the alphabet that a run has stored."""
        return cls(prepared["characters"])

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the blank among them."""
        return len(self.characters) + 1

    def unknown(self, text: str) -> str | None:
        """Returns the first character that is not in the alphabet; None where all are."""
        return next((character for character in text if character not in self._number), None)

    def encode(self, text: str) -> np.ndarray:
        """Returns a transcript as numbers, int32 `[L]`."""
        return np.array([self._number[character] for character in text], np.int32)
