"""Transcription binds, learns, and says its words with their times."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build
from jaxprop.core.ctc import beam
from jaxprop.core.precision import policy
from jaxprop.models import speech
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tasks.transcribe import describe, predict
from jaxprop.types import Source
from tests.benches import bits

pytest.importorskip("jiwer")
RATE, HOP = 1000, 20
CHARACTERS = [" ", "a", "b"]
SECTIONS = {
    "task": {"name": "transcribe"},
    "data": {"name": "tones", "examples": 8, "batch_size": 8},
    "model": {"name": "conv_bilstm", "mels": 8, "window_ms": 40.0, "hop_ms": 20.0, "channels": [16], "strides": [1],
              "width": 12, "layers": 1},
    "optimizer": {"name": "adam", "lr": 0.02},
    "parallel": {"devices": 1},
    "run": {"steps": 60},
}  # fmt: skip


def hums(count, seed):
    """Recordings in which a letter is 0.1 s of its own pitch, and a space is silence."""
    rng = np.random.default_rng(seed)
    texts = [" ".join("".join(rng.choice(["a", "b"], 2)) for _ in range(2)) for _ in range(count)]
    waves = np.zeros((count, 800), np.float32)
    time = np.arange(100) / RATE
    for row, text in zip(waves, texts, strict=True):
        for i, letter in enumerate(text):
            if letter != " ":
                row[100 + 100 * i : 200 + 100 * i] = np.sin(
                    2 * np.pi * {"a": 100, "b": 300}[letter] * time
                ) * np.hanning(100)
    waves += 0.01 * rng.normal(size=waves.shape).astype(np.float32)
    labels = np.array([[CHARACTERS.index(c) + 1 for c in text] for text in texts], np.int32)

    def take(i):
        n = len(i)
        return {
            "inputs": waves[i], "input_lengths": np.full(n, 700, np.int32), "labels": labels[i],
            "label_lengths": np.full(n, 5, np.int32),
        }  # fmt: skip

    info = {"vocabulary": 4, "sample_rate": RATE, "characters": CHARACTERS}
    return Source(count, take, info, f"hums {seed}", prepared={"characters": CHARACTERS, "sample_rate": RATE}), texts


@pytest.fixture
def sources(monkeypatch):
    made = {"train": hums(64, 0)[0], "test": hums(13, 1)[0]}
    monkeypatch.setattr(data, "open_sources", lambda *_: made)
    return made


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_learns(sources, learn, precision):
    learned = learn(build(SECTIONS | {"precision": {"policy": precision}}))
    assert set(learned.after) == {"loss", "wer", "cer", "infeasible"}
    assert learned.after["loss"] < 0.5 * learned.before["loss"]
    assert learned.after["cer"] < 0.5 < learned.before["cer"]
    assert learned.after["infeasible"] == 0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_audio_is_not_cast(sources, precision):
    task = tasks.make_task(build(SECTIONS | {"precision": {"policy": precision}}), sources)
    assert task.objective.cast == ()
    assert task.spec.sizes == {"vocabulary": 4, "sample_rate": RATE}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", [{}, {"name": "conformer", "layers": 1, "width": 8, "heads": 2}], ids=str)
def test_features_and_likelihoods_are_of_full_precision(sources, monkeypatch, precision, model):
    seen = []

    def spied(function):
        def call(*args):
            seen.append(args[0].dtype)
            seen.append(jax.tree.leaves(found := function(*args))[0].dtype)
            return found

        return call

    monkeypatch.setattr(speech, "log_mel", spied(speech.log_mel))
    losses = sys.modules["jaxprop.losses.ctc"]  # whose name in its package is that of the function
    monkeypatch.setattr(losses, "log_likelihood", spied(losses.log_likelihood))
    own = {"mels": 8, "window_ms": 40.0, "hop_ms": 20.0, **model} if model else SECTIONS["model"]
    config = build(SECTIONS | {"model": own, "precision": {"policy": precision}})
    task, batch = tasks.make_task(config, sources), sources["train"].take(np.arange(4))
    key, half = jax.random.key(0), policy(precision)
    params, extras = jax.eval_shape(task.model.init, key, batch)
    loss = jax.eval_shape(lambda p, e: task.objective.mean_loss(p, e, batch, key, half)[0], params, extras)
    assert loss.dtype == jnp.float32
    assert len(seen) == 4
    assert set(seen) == {jnp.dtype("float32")}


def test_rates_are_exact_over_batches_and_devices(sources):
    figures = []
    for devices, size in ((1, 13), (1, 5), (8, 8)):
        changes = {"data": SECTIONS["data"] | {"eval_batch_size": size}, "parallel": {"devices": devices}}
        experiment = compose(build(SECTIONS | changes))
        figures.append(evaluate(experiment, experiment.init(0)))
    assert figures[0]["wer"] > 0
    assert figures[0]["cer"] not in (0, 1)  # something is said
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)


def test_a_resumed_run_in_float16_is_the_same_to_the_bit(tmp_path):
    sections = SECTIONS | {
        "data": SECTIONS["data"] | {"test_examples": 4, "augment": [{"name": "speed"}, {"name": "spec_augment"}]},
        "model": SECTIONS["model"] | {"channels": [4], "width": 4},
        "precision": {"policy": "float16", "loss_scale": 2.0**24, "growth_interval": 3},
        "health": {"layers": False, "watch": False},
        "sinks": {"console": False},
    }

    def trained(folder, steps):
        run = {"steps": steps, "log_every": 1, "eval_every": 12}
        train(build(sections | {"run": run}), tmp_path / folder, quiet=True)
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        unequal = ("examples_per_second",)
        records = [{k: v for k, v in json.loads(line).items() if k not in unequal} for line in lines]
        return load(tmp_path / folder).opened.state, [one for one in records if one["split"] == "train"]

    whole, expected = trained("whole", 12)
    trained("cut", 7)
    state, records = trained("cut", 12)
    assert records == expected
    assert bits(state) == bits(whole)
    scales = [one.get("loss_scale", 1) for one in records]
    assert len(set(scales)) > 1
    assert 0 < records[-1]["skips"] < 12
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))


def test_predictions_have_the_times_of_the_model(sources):
    task = tasks.make_task(build(SECTIONS), sources)
    path = np.array([[0, 2, 2, 1, 3, 0, 3, 0]])
    outputs = {"logits": 30 * jax.nn.one_hot(path, 4), "lengths": jnp.array([7])}
    found = task.predict(outputs, {})
    assert found["tokens"][0, : int(found["count"][0])].tolist() == [2, 1, 3, 3]
    np.testing.assert_allclose(found["start"][0, :4], np.array([1, 3, 4, 6]) * 0.02, rtol=1e-5)
    np.testing.assert_allclose(found["end"][0, :4], np.array([3, 4, 5, 7]) * 0.02, rtol=1e-5)
    assert found["probability"][0] == pytest.approx(1, abs=1e-3)
    assert "label_start" not in found
    aligned = task.predict(outputs, {"labels": np.array([[2, 1, 3, 3]]), "label_lengths": np.array([4])})
    np.testing.assert_allclose(aligned["label_start"], found["start"])
    np.testing.assert_allclose(aligned["label_end"], found["end"])


def test_a_beam_is_used_where_the_config_has_one(sources):
    log_probs = jnp.log(jnp.array([[[0.6, 0.4, 1e-9, 1e-9]] * 2]))
    outputs = {"logits": log_probs, "lengths": jnp.array([2])}
    for width, count in ((None, 0), (4, 1)):
        task = tasks.make_task(build(SECTIONS | {"task": {"name": "transcribe", "beam": width}}), sources)
        assert task.predict(outputs, {})["count"].tolist() == [count]
    found = predict(outputs, {"inputs": np.zeros((1, 400))}, decode=lambda *args: beam(*args, 4), rate=RATE)
    assert found["end"][0, 0] <= 0.4


def test_a_model_of_ones_own_has_times_by_the_length_of_its_inputs():
    outputs = {"logits": 30 * jax.nn.one_hot(jnp.array([[0, 1, 0, 0]]), 3), "lengths": jnp.array([4])}
    found = predict(outputs, {"inputs": np.zeros((1, 2000))}, rate=RATE)
    assert found["start"][0, 0] == pytest.approx(0.5)


def test_words_are_told_with_their_times():
    found = {
        "tokens": np.array([[2, 3, 1, 2, 0]]), "count": np.array([4]), "start": np.array([[0.1, 0.2, 0.3, 0.44, 0]]),
        "end": np.array([[0.2, 0.3, 0.35, 0.5, 0]]), "probability": np.array([0.875]),
    }  # fmt: skip
    said = describe(found, 0, {"characters": [" ", "a", "b"]})
    words = [{"word": "ab", "start": 0.1, "end": 0.3}, {"word": "a", "start": 0.44, "end": 0.5}]
    assert said == {"text": "ab a", "words": words, "probability": 0.875}
