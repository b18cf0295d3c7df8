"""How good translations are: exact matches, and BLEU and chrF by sacrebleu. Of texts, on the host. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from jaxprop.errors import MissingExtraError


def translation_figures(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns `bleu` and `chrf` of a whole split, 0 to 100, and the fraction of translations that are exact.

    BLEU and chrF are those of sacrebleu with its own settings: one reference, case and punctuation count, the tokens of
    BLEU are of `13a`, and chrF is of 6 characters and no words. BLEU is of 1 to 4 tokens in a row, or of as many as the
    longest reference has: where none has four, BLEU of four would be 0 of any translations.

    Args:
      translations: what was written.
      references: what is right, one each.

    Returns:
      The figures; NaN of nothing.

    Raises:
      MissingExtraError: sacrebleu is not installed.

    Example:
      >>> figures = translation_figures(["quarante-deux", "mille six"], ["quarante-deux", "mille dix"])
      >>> {name: round(value, 1) for name, value in figures.items()}
      {'bleu': 57.7, 'chrf': 82.8, 'exact_match': 0.5}

    Reference:
      Post, A Call for Clarity in Reporting BLEU Scores, 2018 (sacrebleu); Papineni et al., BLEU, 2002; Popović,
      chrF: character n-gram F-score for automatic MT evaluation, 2015.
    """
    need_sacrebleu()
    if not references:
        return dict.fromkeys(("bleu", "chrf", "exact_match"), float("nan"))
    from sacrebleu.metrics import BLEU, CHRF

    given, right = list(translations), [list(references)]
    exact = sum(one == other for one, other in zip(translations, references, strict=True))
    return {
        # BLEU of a corpus warns of translations that look tokenized, which texts may well.
        "bleu": BLEU(force=True, max_ngram_order=bleu_order(references)).corpus_score(given, right).score,
        "chrf": CHRF().corpus_score(given, right).score,
        "exact_match": exact / len(references),
    }


def bleu_order(references: Sequence[str]) -> int:
    """Returns the number of tokens in a row up to which BLEU counts: 4, or those of the longest reference.

    Example:
      >>> bleu_order(["quarante-deux", "mille six"]), bleu_order(["the cat sat down"])
      (2, 4)
    """
    from sacrebleu.metrics import BLEU

    tokens = BLEU(force=True).tokenizer
    return min(4, max((len(tokens(text).split()) for text in references), default=4) or 4)


def translation_counts(translations: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns what `bleu` and `exact_match` of many translations follow from, of each: arrays `[N, ...]`.

    Of `bleu` these are the matching and all n-grams of 1 to 4 words, and the lengths of both sides: 10 numbers.

    Raises:
      MissingExtraError: sacrebleu is not installed.
    """
    need_sacrebleu()
    from sacrebleu.metrics import BLEU

    measure = BLEU(force=True, effective_order=True)
    found = [measure.sentence_score(one, [other]) for one, other in zip(translations, references, strict=True)]
    exact = [(float(one == other), 1.0) for one, other in zip(translations, references, strict=True)]
    return {
        "bleu": np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], np.int64),
        "exact_match": np.array(exact),
    }


def figures_of_counts(total: Mapping[str, np.ndarray], order: int = 4) -> dict[str, float]:
    """Returns `bleu` and `exact_match` of counts that were added up over translations.

    Args:
      total: the sums.
      order: number of tokens in a row up to which BLEU counts, from `bleu_order`.

    Example:
      >>> counts = translation_counts(["a b c d e", "x"], ["a b c d e", "y"])
      >>> figures = figures_of_counts({name: rows.sum(0) for name, rows in counts.items()})
      >>> figures["exact_match"], figures["bleu"] == translation_figures(["a b c d e", "x"], ["a b c d e", "y"])["bleu"]
      (0.5, True)
    """
    from sacrebleu.metrics import BLEU

    counts = [int(x) for x in total["bleu"]]
    score = BLEU.compute_bleu(
        correct=counts[:order], total=counts[4 : 4 + order], sys_len=counts[8], ref_len=counts[9],
        smooth_method="exp", max_ngram_order=order,
    )  # fmt: skip
    hits, number = (float(x) for x in total["exact_match"])
    return {"bleu": score.score, "exact_match": hits / number if number else float("nan")}


def sentence_chrf(translation: str, reference: str) -> float:
    """Returns chrF of one translation, 0 to 100, as sacrebleu has it.

    Raises:
      MissingExtraError: sacrebleu is not installed.

    Example:
      >>> sentence_chrf("quarante-deux", "quarante-deux")
      100.0
    """
    need_sacrebleu()
    from sacrebleu.metrics import CHRF

    return CHRF().sentence_score(translation, [reference]).score


def need_sacrebleu() -> None:
    """Raises MissingExtraError where sacrebleu is not installed."""
    if find_spec("sacrebleu") is None:
        raise MissingExtraError("sacrebleu", "the evaluation of the task translate")
