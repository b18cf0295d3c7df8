"""The number of stretches that a run makes its logits in: by total memory, and as configured."""

import jax
import numpy as np
import pytest

from jaxprop import data
from jaxprop.config.build import build
from jaxprop.errors import ConfigError
from jaxprop.run import vocabulary
from jaxprop.run.compose import compose
from jaxprop.run.memory import changes
from jaxprop.run.vocabulary import chunks_for, device_bytes, logits_bytes, with_chunks

GIB = 2**30
SECTIONS = {
    "task": {"name": "language"},
    "data": {"name": "random", "vocabulary": 512, "shape": [64], "examples": 16, "batch_size": 8},
    "model": {"name": "transformer", "layers": 1, "width": 8, "heads": 2},
    "optimizer": {"name": "adam", "lr": 0.1},
    "parallel": {"devices": 1},
    "run": {"steps": 2},
}


def config_with(**over):
    return build({name: {**SECTIONS.get(name, {}), **over.get(name, {})} for name in SECTIONS | over})


def chosen(config, memory, monkeypatch):
    monkeypatch.setattr(vocabulary, "device_bytes", lambda mesh: memory)
    train = data.open_sources(config.data, config.task.name)["train"]
    return with_chunks(config, train, None).run.vocabulary_chunks


def test_auto_takes_stretches_only_where_whole_logits_would_not_fit(monkeypatch):
    config = config_with()
    size = 4 * 8 * 64 * 512
    train = data.open_sources(config.data, "language")["train"]
    assert logits_bytes(config, train, None) == size
    assert chosen(config, 8 * size, monkeypatch) == 1
    assert chosen(config, 8 * size - 8, monkeypatch) == 16
    assert chosen(config, None, monkeypatch) == 1
    assert chosen(config_with(run={"accumulate": 2}), 8 * size - 8, monkeypatch) == 1
    assert chosen(config_with(run={"vocabulary_chunks": 5}), 8 * size, monkeypatch) == 5
    assert chosen(config_with(run={"vocabulary_chunks": "none"}), 1, monkeypatch) == "none"


def test_auto_takes_none_where_they_cannot_be_made(monkeypatch):
    assert chosen(config_with(task={"metrics": {"own": {"class": "a.py:f"}}}), 1, monkeypatch) == 1


@pytest.mark.parametrize(("size", "count"), [(GIB, 1), (2 * GIB, 1), (2 * GIB + 1, 16), (4 * GIB, 16), (5 * GIB, 32)])
def test_a_stretch_takes_at_most_a_64th(size, count):
    assert chunks_for(size, 16 * GIB) == count
    assert count == 1 or size / count <= 16 * GIB / 64


def test_the_memory_of_a_cpu_is_the_machine_s():
    assert device_bytes(None) > 2**28
    assert device_bytes(None) == device_bytes(None)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}},
            r"run.vocabulary_chunks: the task classify has no answer for each token, .*; remove this",
        ),
        ({"model": {"class": "a.py:Net"}}, r"vocabulary_chunks is for the models of jaxprop"),
        (
            {"task": {"name": "language", "loss": {"class": "a.py:loss"}}},
            r"a loss of your own .* remove this or task.loss",
        ),
        ({"precision": {"quantize": "int8"}}, r"are not quantized, .* or precision.quantize"),
        ({"parallel": {"mesh": {"sequence": 2}}}, r"would lie on one device; remove this or parallel.mesh.sequence"),
    ],
)
def test_a_number_where_no_stretches_can_be_made_is_told_in_a_sentence(over, message):
    sections = {**SECTIONS, **over, "run": {"steps": 2, "vocabulary_chunks": 4}}
    with pytest.raises(ConfigError, match=message) as told:
        build(sections)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("value", [0, -2, "all"])
def test_numbers_that_are_none(value):
    with pytest.raises(ConfigError, match=r"run.vocabulary_chunks"):
        build({**SECTIONS, "run": {"steps": 2, "vocabulary_chunks": value}})


def test_a_step_of_a_configuration_with_stretches_needs_less_memory_and_is_the_same():
    found = []
    for chunks in ("none", 8):
        experiment = compose(config_with(run={"vocabulary_chunks": chunks}))
        state, batch = experiment.init(0), next(data.one_pass(experiment.sources["train"], 8))
        memory = experiment.step.lower(state, batch, "lean").compile().memory_analysis().temp_size_in_bytes
        sums = experiment.evaluate(state.params, state.extras, batch)
        _, m = experiment.step(state, batch, "full")
        found.append((memory, m.host().loss, m.host().layers.grad_norm, jax.device_get(sums)))
    assert found[1][0] < 0.5 * found[0][0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found[1][1:], found[0][1:])


def test_an_override_of_the_head_is_not_missed_where_logits_are_made_in_stretches():
    precision = {"policy": "bfloat16", "overrides": [{"match": "head", "dtype": "float32"}]}
    for chunks in ("none", 8):
        experiment = compose(config_with(precision=precision, run={"vocabulary_chunks": chunks}))
        state, batch = experiment.init(0), next(data.one_pass(experiment.sources["train"], 8))
        text = experiment.step.lower(state, batch, "lean").as_text()
        assert "tensor<8x512xf32>" in text  # the table as the head's kernel, which has not been narrowed


def test_they_are_among_the_changes_that_lower_memory():
    lines = [change.line for change in changes(config_with())]
    assert "run.vocabulary_chunks=8" in lines
    assert all("vocabulary" not in one.line for one in changes(config_with(run={"vocabulary_chunks": 4})))
