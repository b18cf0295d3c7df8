"""Figures of translations as sacrebleu gives them, and exact matches."""

import math

import pytest
import sacrebleu

from jaxprop.errors import MissingExtraError
from jaxprop.metrics import translation
from jaxprop.metrics.translation import sentence_chrf, translation_figures

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
