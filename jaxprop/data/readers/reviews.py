"""Generated reviews with negation, contrast and intensity, whose label follows from a rule. Synthetic.

A clause says of an aspect that it was good or bad, by a modifier m and an adjective a. Its value is `f_m p_a`: the
polarity p_a is 1 or -1, and the factor f_m is 1 for "was", 2 for "was extremely", 0.5 for "was somewhat", -1 for
"was not", -0.5 for "was not very", and so on. A sentence is one clause; or two that are joined, whose values add up; or
two in contrast, of which the conceded one counts a quarter ("although X, Y", "X, but Y", "Y, even if X"). A review has
one or two sentences, and is positive where their values add up to more than 0.

Of the clauses, 35 % are negated, so that single words say little. Some pairs of modifier and adjective occur in no
training review, and at least one of them in every test review.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Reviews
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.padding import encode, padded
from jaxprop.data.readers.text import unlabelled
from jaxprop.data.texts import inputs_of
from jaxprop.data.tokenizers import make_tokenizer, restore
from jaxprop.types import Reader, Source

CLASSES = ("negative", "positive")
AFFIRMED: dict[str, float] = {
    "was": 1.0,
    "was really": 1.5,
    "was very": 1.5,
    "was extremely": 2.0,
    "was incredibly": 2.0,
    "was somewhat": 0.5,
    "was slightly": 0.5,
    "was a bit": 0.5,
    "turned out to be": 1.0,
}
NEGATED: dict[str, float] = {
    "was not": -1.0,
    "was never": -1.0,
    "was hardly": -1.0,
    "failed to be": -1.0,
    "was not very": -0.5,
    "was not exactly": -0.5,
    "was not all that": -0.5,
    "was anything but": -2.0,
    "was far from": -2.0,
}
MODIFIERS = AFFIRMED | NEGATED
GOOD = (
    "good", "great", "lovely", "superb", "charming", "clever", "fresh", "gripping", "touching", "elegant", "funny",
    "warm", "brilliant", "convincing", "delightful", "honest", "inspired", "memorable", "polished", "rich", "sharp",
    "thoughtful", "vivid", "witty",
)  # fmt: skip
BAD = (
    "bad", "awful", "dull", "boring", "clumsy", "stale", "tedious", "shallow", "crude", "cold", "messy", "lifeless",
    "predictable", "hollow", "bland", "confusing", "forced", "noisy", "painful", "sloppy", "tired", "ugly", "vulgar",
    "wooden",
)  # fmt: skip
ADJECTIVES: dict[str, int] = {
    **dict.fromkeys(GOOD, 1),
    **dict.fromkeys(BAD, -1),
}
ASPECTS = (
    "the plot", "the acting", "the ending", "the music", "the dialogue", "the pacing", "the camera work", "the opening",
    "the humour", "the villain", "the hero", "the script", "the second half", "the first act", "the setting",
    "the sound", "the editing", "the costume design", "the love story", "the message",
)  # fmt: skip
CONTRASTS = (
    "although {x}, {y}",
    "even though {x}, {y}",
    "{x}, but {y}",
    "{x}, yet {y}",
    "{y}, even if {x}",
    "{y}, although {x}",
)
JOINED = ("{x}, and {y}", "{x} and {y}")
CONCEDED = 0.25
_NEGATED = 0.35  # fraction of the clauses
_MARGIN = 0.4  # reviews whose values nearly cancel have no clear label, and are not made
_UNSEEN = 0.15  # fraction of the pairs of modifier and adjective that are kept for the test
_ALSO_UNSEEN = 0.3  # of the other clauses of a test review


class Clause(NamedTuple):
    """A clause: its text, its value, and whether its pair of modifier and adjective is kept for the test."""

    text: str
    value: float
    unseen: bool


def open_reviews(section: Reviews, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Makes reviews.

    Args:
      section: the config's `data` section.
      prepared: what an earlier run has stored: its tokenizer and length.

    Returns:
      `train` and `test` as of `jaxprop.data.readers.text.open_text`, with the classes negative and positive.

    Example:
      >>> source = open_reviews(Reviews(name="reviews", examples=4, test_examples=2))["train"]
      >>> source.length, source.info["class_names"], sorted(source.take(np.arange(2)))
      (4, ['negative', 'positive'], ['input_mask', 'inputs', 'labels'])
    """
    made = {
        "train": make_reviews(section.examples, section.data_seed, unseen=False),
        "test": make_reviews(section.test_examples, section.data_seed, unseen=True),
    }
    texts = {split: [text for text, _ in reviews] for split, reviews in made.items()}
    if prepared is None:
        tokenizer = make_tokenizer(section.tokenizer, lambda: texts["train"])
    else:
        tokenizer = restore(prepared.get("tokenizer"))
    encoded = {split: encode(texts[split], tokenizer, section.max_length) for split in made}
    length = encoded["train"].length(section.max_length) if prepared is None else int(prepared["length"])
    kept = {"tokenizer": dict(tokenizer.stored), "length": length, "class_names": list(CLASSES)}

    def source(split: str) -> Source:
        labels = np.array([label for _, label in made[split]], np.int32)
        rows = padded(encoded[split], length, tokenizer, name="reviews")
        notes = encoded[split].cut_note(length, section.max_length)
        return rows._replace(
            take=lambda indices: rows.take(indices) | {"labels": labels[indices]},
            info={
                "classes": len(CLASSES),
                "class_names": list(CLASSES),
                "vocabulary": tokenizer.vocabulary,
                "tokenizer": tokenizer.kind,
                "max_length": length,
                **({"notes": notes} if notes else {}),
            },
            fingerprint=fingerprint(rows.fingerprint, labels),
            prepared=kept,
            labels=lambda: labels,
        )

    return {split: source(split) for split in made}


def make_reviews(count: int, seed: int, *, unseen: bool) -> list[tuple[str, int]]:
    """Returns different reviews with their labels, half of them of each class.

    Args:
      count: how many.
      seed: of the random choices.
      unseen: whether each holds a pair of modifier and adjective that is kept for the test; otherwise none does.

    Example:
      >>> make_reviews(1, 3, unseen=False) == make_reviews(2, 3, unseen=False)[:1]
      True
    """
    rng = random.Random(f"{seed}/{unseen}")
    found: dict[str, int] = {}
    wanted = 0
    while len(found) < count:
        text, value, has_unseen = _review(rng, unseen)
        label = int(value > 0)
        if abs(value) < _MARGIN or has_unseen != unseen or label != wanted or text in found:
            continue
        found[text] = label
        wanted = 1 - wanted
    return list(found.items())


def is_unseen(modifier: str, adjective: str) -> bool:
    """Whether a pair is kept for the test, by a hash of the words.

    Example:
      >>> sum(is_unseen(m, a) for m in MODIFIERS for a in ADJECTIVES) / (len(MODIFIERS) * len(ADJECTIVES)) < 0.2
      True
    """
    digest = hashlib.sha256(f"{modifier}/{adjective}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < _UNSEEN


def _review(rng: random.Random, unseen: bool) -> tuple[str, float, bool]:
    sentences = [_sentence(rng, unseen) for _ in range(1 + (rng.random() < 0.4))]
    text = " ".join(f"{said[0].upper()}{said[1:]}." for said, _, _ in sentences)
    return text, sum(value for _, value, _ in sentences), any(new for _, _, new in sentences)


def _sentence(rng: random.Random, unseen: bool) -> tuple[str, float, bool]:
    kind = rng.random()
    y = _clause(rng, unseen)
    if kind < 0.35:
        return y.text, y.value, y.unseen
    x = _clause(rng, unseen)
    form, weight = (_one(rng, JOINED), 1.0) if kind < 0.5 else (_one(rng, CONTRASTS), CONCEDED)
    return form.format(x=x.text, y=y.text), weight * x.value + y.value, x.unseen or y.unseen


def _clause(rng: random.Random, unseen: bool) -> Clause:
    kept = unseen and rng.random() < _ALSO_UNSEEN
    while True:
        modifiers = NEGATED if rng.random() < _NEGATED else AFFIRMED
        modifier, adjective = _one(rng, tuple(modifiers)), _one(rng, tuple(ADJECTIVES))
        if is_unseen(modifier, adjective) == kept:
            break
    text = f"{_one(rng, ASPECTS)} {modifier} {adjective}"
    return Clause(text, MODIFIERS[modifier] * ADJECTIVES[adjective], kept)


def _one(rng: random.Random, items: Sequence[str]) -> str:
    return items[int(rng.random() * len(items))]  # the method choice may change with the Python version


def review_inputs(section: Reviews, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source | Iterator[Source]:
    """Opens texts without labels, to predict; as of `jaxprop.data.readers.text.text_inputs`."""
    return inputs_of(
        paths,
        prepared,
        limit=section.max_length,
        column="text",
        read=lambda path, bad: unlabelled(path, "text", None, bad),
    )


REVIEWS = Reader(
    open=lambda section, _task, prepared: open_reviews(section, prepared),
    inputs=lambda section, _task, prepared, paths: review_inputs(section, prepared, paths),
)
