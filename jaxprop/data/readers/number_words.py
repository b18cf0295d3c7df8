"""Numbers as words of one language and of another, made with num2words: pairs to translate. Synthetic.

All numbers of 0 to 99, or as many of them as there is room for, are in training, since their names are no compound of
others' ("soixante et onze"); `data.validation` holds out others. Of the others, a hash of the number says which are
kept for the test. Numbers of 3, 4, ... digits are drawn equally often, as far as there are such. In a tenth of many
training examples the number is below 100: each of those words stands alone in one text, which would hardly be learned.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from jaxprop.config.schema.data import NumberWords
from jaxprop.data.order import permutation
from jaxprop.data.padding import encode
from jaxprop.data.readers.pairs import source_inputs, source_of_pairs
from jaxprop.data.tokenizers import make_tokenizer, restore
from jaxprop.errors import DataError, MissingExtraError, one_of
from jaxprop.types import Reader, Source

FIRST = 100  # smaller numbers are always training's
_UNSEEN = 0.2  # fraction of the numbers that are kept for the test


def open_number_words(section: NumberWords, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Makes pairs of number words.

    Args:
      section: the config's `data` section.
      prepared: what an earlier run has stored: its tokenizer and lengths.

    Returns:
      `train` and `test` as of `jaxprop.data.readers.pairs.open_pairs`, and `validation` where `data.validation` holds
      out numbers of training; each number is in one split alone.

    Raises:
      MissingExtraError: num2words is not installed.
      DataError: it does not know a language, or there are not as many numbers.
    """
    again = FIRST * max(section.examples // (10 * FIRST) - 1, 0)
    drawn = draw(section.examples - again, section.largest, section.data_seed, unseen=False)
    numbers = _parted([*drawn, *(i % FIRST for i in range(again))], section.validation, section.split_seed)
    numbers["test"] = draw(section.test_examples, section.largest, section.data_seed, unseen=True)
    texts = {
        split: [
            words(some, language, key) for key, language in (("source", section.source), ("target", section.target))
        ]
        for split, some in numbers.items()
    }
    if prepared is None:
        tokenizer = make_tokenizer(section.tokenizer, lambda: [text for side in texts["train"] for text in side])
    else:
        tokenizer = restore(prepared.get("tokenizer"))
    limit = section.max_length
    sides = {split: (encode(s, tokenizer, limit), encode(t, tokenizer, limit)) for split, (s, t) in texts.items()}
    if prepared is None:
        lengths = [side.length(limit) for side in sides["train"]]
    else:
        lengths = [int(n) for n in prepared["lengths"]]
    return {
        split: source_of_pairs(both, tokenizer, lengths, limit, name="number_words") for split, both in sides.items()
    }


def draw(count: int, largest: int, seed: int, *, unseen: bool) -> list[int]:
    """Returns different numbers.

    Args:
      count: how many.
      largest: of all.
      seed: of the random choices.
      unseen: whether they are those that are kept for the test.

    Raises:
      DataError: there are hardly as many.

    Example:
      >>> set(draw(500, 999_999, 0, unseen=False)) & set(draw(500, 999_999, 0, unseen=True))
      set()
    """
    share = _UNSEEN if unseen else 1 - _UNSEEN
    if count > (most := int(0.9 * share * (largest + 1 - FIRST))):
        key = "test_examples" if unseen else "examples"
        raise DataError(
            f"data.{key}: {count} numbers up to {largest} are too many; use at most {most}, or data.largest"
        )
    rng = random.Random(f"{seed}/{unseen}")
    found = {} if unseen else dict.fromkeys(range(min(FIRST, count)))
    bounds = [(10**digits, min(10 ** (digits + 1) - 1, largest)) for digits in range(2, len(str(largest)))]
    while len(found) < count:
        low, high = bounds[int(rng.random() * len(bounds))]
        number = low + int(rng.random() * (high + 1 - low))
        if is_unseen(number) == unseen:
            found[number] = None
    return list(found)


def _parted(numbers: list[int], fraction: float | None, seed: int) -> dict[str, list[int]]:
    """The numbers to train on, and those of the validation, none of which is below FIRST."""
    if fraction is None:
        return {"train": numbers}
    others = np.flatnonzero(np.array(numbers) >= FIRST)
    count = math.ceil(fraction * len(numbers))
    if count >= len(others):
        raise DataError(
            f"data.validation: {fraction:g} of {len(numbers)} numbers are {count}, which leaves fewer than the "
            f"{FIRST + 1} that training needs, since those below {FIRST} stay in it; use a smaller fraction"
        )
    held = set(others[permutation(len(others), seed)[:count]].tolist())
    splits: dict[str, list[int]] = {"train": [], "validation": []}
    for i, number in enumerate(numbers):
        splits["validation" if i in held else "train"].append(number)
    return splits


def is_unseen(number: int) -> bool:
    """Whether a number is kept for the test, by a hash of it.

    Example:
      >>> any(is_unseen(n) for n in range(100)), 0.18 < sum(is_unseen(n) for n in range(100, 10_000)) / 9900 < 0.22
      (False, True)
    """
    digest = hashlib.sha256(str(number).encode()).digest()
    return number >= FIRST and int.from_bytes(digest[:8], "big") / 2**64 < _UNSEEN


def words(numbers: Sequence[int], language: str, key: str) -> list[str]:
    """Returns numbers as words.

    Args:
      numbers: at least 0.
      language: as num2words names it.
      key: of the section, for messages.

    Raises:
      MissingExtraError: num2words is not installed.
      DataError: it does not know the language.

    Example:
      >>> words([42], "en", "source"), words([71], "fr", "target")
      (['forty-two'], ['soixante et onze'])
    """
    if find_spec("num2words") is None:
        raise MissingExtraError("num2words", "data.name: number_words")
    from num2words import CONVERTER_CLASSES

    if language not in CONVERTER_CLASSES:
        raise DataError(f"data.{key}: {one_of(language, CONVERTER_CLASSES, 'language')}")
    return [CONVERTER_CLASSES[language].to_cardinal(number) for number in numbers]


NUMBER_WORDS = Reader(
    open=lambda section, _task, prepared: open_number_words(section, prepared),
    inputs=lambda section, _task, prepared, paths: source_inputs(prepared, paths, limit=section.max_length),
)
