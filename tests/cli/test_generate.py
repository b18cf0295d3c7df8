"""`jaxprop generate`: text as it is written, its options, and what is no run of a language."""

import json

import pytest

from jaxprop.config.build import build
from jaxprop.run.train import train

BASE = {
    "task": {"name": "language"},
    "model": {"name": "transformer", "layers": 1, "width": 16, "heads": 2},
    "optimizer": {"name": "adamw", "lr": 1e-2},
    "parallel": {"devices": 1},
    "health": {"layers": False},
    "run": {"steps": 5},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("the cat sat on the mat. " * 40)
    data = {"name": "text", "train": "book.txt", "sequence_length": 32, "batch_size": 8}
    train(build({**BASE, "data": data}), "runs/book", quiet=True)
    (tmp_path / "book.txt").unlink()  # a run needs no training text to write


def test_the_prompt_and_what_follows(jaxprop, run):
    ran = jaxprop("generate", "book", "the cat", "--tokens", "12", "--seed", "3")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("the cat")
    assert ran.out.endswith("\n")
    assert len(ran.out) > len("the cat\n")
    assert jaxprop("generate", "book", "the cat", "-n", "12", "--seed", "3").out == ran.out


def test_json(jaxprop, run):
    ran = jaxprop("generate", "book", "the", "-n", "5", "--temperature", "0", "--json")
    found = json.loads(ran.out)
    assert found["command"] == "generate"
    assert found["run"].endswith("runs/book")
    assert (found["prompt"], found["tokens"], found["seed"], found["step"]) == ("the", 5, 0, 5)
    plain = jaxprop("generate", "book", "the", "-n", "5", "--temperature", "0").out
    assert plain == f"the{found['text']}\n"


def test_no_prompt_starts_a_text(jaxprop, run):
    assert jaxprop("generate", "book", "-n", "4").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["book", "x" * 40], "the prompt has 40 tokens, and the model was trained with a context of 32; shorten it"),
        (["boook", "x"], "there is no such run folder; did you mean 'book'"),
        (["book", "x", "--temperature", "-1"], "--temperature"),
        (["book", "x", "--tokens", "0"], "--tokens"),
    ],
)
def test_mistakes_are_one_sentence(jaxprop, run, arguments, sentence):
    ran = jaxprop("generate", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert "Traceback" not in ran.err
