"""Figures of translations as sacrebleu gives them, and exact matches."""

import math

import numpy as np
import pytest
import sacrebleu

from jaxprop.errors import MissingExtraError
from jaxprop.metrics import translation
from jaxprop.metrics.translation import (
    bleu_order,
    figures_of_counts,
    sentence_chrf,
    translation_counts,
    translation_figures,
)

GIVEN = ["the cat sat on the mat today", "there is a dog in the garden", "", "yes ."]
RIGHT = ["the cat sat on the mat today", "there was a dog in a garden", "nothing was said", "yes ."]


def test_figures_are_those_of_sacrebleu():
    found = translation_figures(GIVEN, RIGHT)
    assert found == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(GIVEN, [RIGHT], force=True).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(GIVEN, [RIGHT]).score),
        "exact_match": 0.5,
    }
    assert 20 < found["bleu"] < 90


def test_targets_of_few_words_have_a_bleu_of_as_many():
    """Fault: where no target had four words, BLEU was 0 of any translations, and runs were judged by it."""
    given, right = ["123", "45 6", "7"], ["123", "45 7", "8"]
    found = translation_figures(given, right)["bleu"]
    assert found == pytest.approx(sacrebleu.BLEU(max_ngram_order=2).corpus_score(given, [right]).score)
    assert translation_figures(right, right)["bleu"] == pytest.approx(100)
    counts = {name: rows.sum(0) for name, rows in translation_counts(given, right).items()}
    assert figures_of_counts(counts, bleu_order(right))["bleu"] == pytest.approx(found)


def test_what_is_right_has_the_most():
    assert translation_figures(RIGHT, RIGHT) == {
        "bleu": pytest.approx(100), "chrf": pytest.approx(100), "exact_match": 1.0,
    }  # fmt: skip


def test_nothing_has_no_figure():
    assert all(math.isnan(value) for value in translation_figures([], []).values())


def test_a_single_translation():
    assert sentence_chrf(GIVEN[1], RIGHT[1]) == pytest.approx(sacrebleu.sentence_chrf(GIVEN[1], [RIGHT[1]]).score)


def test_without_sacrebleu(monkeypatch):
    monkeypatch.setattr(translation, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="install it with: pip install sacrebleu"):
        translation_figures(GIVEN, RIGHT)


def test_figures_of_weights_are_those_of_repeated_translations():
    """Counts of n-grams and lengths add up, so that a weight of 2 is a translation that stands twice."""
    given = ["the cat sat on the mat", "a dog barked at me today", "one two three", "x"]
    right = ["the cat is on the mat", "a dog barked at me today", "one two four", "y"]
    counts = translation_counts(given, right)
    for weights in (np.ones(4, int), np.array([2, 1, 0, 3]), np.array([0, 0, 1, 1])):
        repeated = [np.repeat(texts, weights).tolist() for texts in (given, right)]
        order = bleu_order(repeated[1])
        found = figures_of_counts({n: weights @ x for n, x in counts.items()}, order)
        wanted = translation_figures(*repeated)
        assert found == pytest.approx({name: wanted[name] for name in found})
