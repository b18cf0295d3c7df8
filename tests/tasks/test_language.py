"""Language modelling binds, learns, and knows perplexity and the unigram model's loss."""

import math

import numpy as np
import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.tasks.language import _derived

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
    assert set(learned.after) == {"loss", "accuracy", "perplexity", "bits_per_byte"}
    assert learned.after["perplexity"] == pytest.approx(math.exp(learned.after["loss"]))
    assert learned.after["bits_per_byte"] == pytest.approx(learned.after["loss"] / math.log(2))


def test_reference_is_the_unigram_loss():
    config = build(CONFIG)
    sources = data.open_sources(config.data, "language")
    task = tasks.make_task(config, sources)
    assert task.spec.sizes == {"vocabulary": 256}
    assert task.reference == {"unigram_loss": sources["train"].info["unigram_nats"]}
    assert 2 < task.reference["unigram_loss"] < math.log(256)


@pytest.mark.parametrize(("loss", "perplexity"), [(0.0, 1.0), (1.0, math.e), (710.0, math.inf)])
def test_perplexity(loss, perplexity):
    assert _derived({"loss": loss}, of_bytes=False) == {"perplexity": perplexity}


def of_bpe(**run):
    sections = CONFIG | {"data": CONFIG["data"] | {"tokenizer": {"train": "bpe", "vocabulary": 300}, "batch_size": 7}}
    return build(sections | {"run": {"steps": 3, **run}})


@pytest.mark.parametrize("batches", [None, 2])
def test_bits_a_byte_are_those_of_the_bytes_that_were_evaluated(batches):
    experiment = compose(of_bpe(eval_batches=batches))
    figures = evaluate(experiment, experiment.init(0))
    source = experiment.validation
    batch = source.take(np.arange(source.length if batches is None else 7 * batches))
    tokens, told = batch["mask"].sum(), batch["bytes"].sum()
    if batches is None:
        assert source.info["bytes"] - 8 < told < source.info["bytes"]  # all but those of the first token
    assert figures["bytes_per_token"] == pytest.approx(told / tokens, rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] * tokens / told / math.log(2), rel=1e-6)
    assert 1.1 < figures["bytes_per_token"] < 3


def test_tokens_are_shown_as_text():
    experiment = compose(of_bpe())
    (panel,) = experiment.task.panels
    batch = experiment.sources["train"].take(np.arange(2))
    drawn = panel({"token": batch["labels"]}, batch)
    assert drawn.title == "Next tokens"
    assert drawn.data["rows"][0][1] == drawn.data["rows"][1][1]
    assert "|" in drawn.data["rows"][0][1]


def test_figures_of_data_without_bytes_have_none():
    config = build(CONFIG | {"data": {"name": "random", "shape": [8]}, "run": {"steps": 1}})
    task = tasks.make_task(config, data.open_sources(config.data, "language"))
    assert task.derived({"loss": 1.0}) == {"perplexity": math.e}
