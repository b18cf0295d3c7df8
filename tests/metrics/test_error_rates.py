"""`metrics/error_rates.py`: what jiwer gives for the same texts, over batches and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.ctc import greedy
from jaxprop.metrics.error_rates import error_rates, errors, rates, rates_of_errors, text_of
from jaxprop.metrics.totals import add_up, finished, measure

jiwer = pytest.importorskip("jiwer")
CHARACTERS = [" ", "a", "b", "c"]


def test_rates_are_those_of_all_texts_together():
    metric = error_rates(CHARACTERS, greedy)
    rng = np.random.default_rng(0)
    totals, references, said = {}, [], []
    for weight in ([1, 1, 1], [1, 1, 0]):
        path = rng.integers(0, 5, (3, 12))
        labels, counts = rng.integers(1, 5, (3, 6)), rng.integers(2, 7, 3)
        batch = {"labels": labels, "label_lengths": counts, "weight": np.array(weight, np.float32)}
        outputs = {"logits": 9 * jax.nn.one_hot(path, 5), "lengths": jnp.full(3, 12)}
        add_up(totals, measure({"errors": metric}, outputs, batch))
        found = greedy(jax.nn.log_softmax(outputs["logits"]), outputs["lengths"])
        for i in np.flatnonzero(weight):
            references.append(text_of(labels[i], counts[i], CHARACTERS))
            said.append(text_of(np.asarray(found.tokens[i]), int(found.size[i]), CHARACTERS))
    figures = finished(totals, {"errors": metric})
    assert figures == {"wer": jiwer.wer(references, said), "cer": jiwer.cer(references, said)}
    assert figures["wer"] > 0


def test_references_of_nothing_have_no_rate():
    assert all(np.isnan(value) for value in rates(["", ""], ["a", ""]).values())
    assert rates(["", "a"], ["", "b"]) == {"wer": 1.0, "cer": 1.0}


def test_rates_of_weights_are_those_of_repeated_transcripts():
    """Errors and lengths add up, so that a weight of 2 is a transcript that stands twice; an empty one counts, too."""
    references = ["a b c", "d", "", "e f"]
    said = ["a x", "d d d", "y z", "e f"]
    each = errors(references, said)
    assert each["wer"].tolist() == [[2, 3], [2, 1], [2, 0], [0, 2]]
    for weights in (np.array([1, 1, 0, 1]), np.array([3, 0, 0, 2]), np.array([0, 2, 0, 0])):
        repeated = [np.repeat(texts, weights).tolist() for texts in (references, said)]
        assert rates_of_errors({name: weights @ one for name, one in each.items()}) == pytest.approx(rates(*repeated))
    assert np.isnan(rates_of_errors({"wer": np.zeros(2)})["wer"])
