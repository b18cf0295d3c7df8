"""Language modelling binds, learns, and knows perplexity and the unigram model's loss."""

import math

import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build

CONFIG = {
    "task": {"name": "language"},
    "data": {"name": "stdlib_text", "max_bytes": 60_000, "sequence_length": 16, "batch_size": 16},
    "model": {"name": "rnn", "cell": "elman", "width": 16},
    "optimizer": {"name": "adam", "lr": 0.01},
    "parallel": {"devices": 1},
    "run": {"steps": 40, "eval_batches": 10},
}


def test_learns(learn):
    learned = learn(build(CONFIG))
    assert learned.before["loss"] == pytest.approx(math.log(256), rel=0.2)
    assert learned.after["loss"] < learned.before["loss"] - 1
    assert set(learned.after) == {"loss", "accuracy", "perplexity"}
    assert learned.after["perplexity"] == pytest.approx(math.exp(learned.after["loss"]))


def test_reference_is_the_unigram_loss():
    config = build(CONFIG)
    sources = data.open_sources(config.data, "language")
    task = tasks.make_task(config, sources)
    assert task.spec.sizes == {"vocabulary": 256}
    assert task.reference == {"unigram_loss": sources["train"].info["unigram_nats"]}
    assert 2 < task.reference["unigram_loss"] < math.log(256)


@pytest.mark.parametrize(("loss", "perplexity"), [(0.0, 1.0), (1.0, math.e), (710.0, math.inf)])
def test_perplexity(loss, perplexity):
    from jaxprop.tasks.language import _perplexity

    assert _perplexity({"loss": loss}) == {"perplexity": perplexity}
