"""The card of a run, also of one whose files say little or nonsense."""

import pytest

from jaxprop.report.card import LONGEST, MOST_KEYS, card, flat
from jaxprop.report.read import Reader
from tests.report.runs import EVIL, evil_run, make_run

SUMMARY = {
    "status": "completed", "step": 690, "parameters": 50442, "seconds": 75.4, "compile_seconds": 2.25,
    "examples_per_second": 8638.2, "metrics": {"accuracy": 0.9972, "loss": 0.3155},
    "reference": {"majority_accuracy": 0.1}, "best": {"step": 600, "loss": 0.31, "accuracy": 0.998},
    "versions": {"python": "3.11.7", "jaxprop": "0.1.0", "jax": "0.10.2", "numpy": "2.0"},
}  # fmt: skip


def read(folder, summary=None, **given):
    run = Reader(make_run(folder / "a", **given)).read()
    return run if summary is None else run._replace(summary=summary)


def test_the_facts_of_a_run(tmp_path):
    assert dict(card(read(tmp_path, SUMMARY)).facts) == {
        "model": "mlp, 50,442 parameters",
        "data": "digits, batch size 64",
        "optimizer": "sgd, lr 0.1",
        "time": "1 min 15 s, of which 2.2 s compiling, 8,638 examples/s",
        "result": "loss 0.3155, accuracy 0.9972",
        "best": "loss 0.31, accuracy 0.998, at step 600",
        "reference": "majority accuracy 0.1",
        "versions": "jaxprop 0.1.0, jax 0.10.2, python 3.11.7",
    }


def test_the_last_session_of_a_run_that_was_resumed(tmp_path):
    facts = dict(card(read(tmp_path, {**SUMMARY, "session_seconds": 12.0})).facts)
    assert facts["time"] == "1 min 15 s, the last session 12 s, of which 2.2 s compiling, 8,638 examples/s"


def test_the_whole_configuration(tmp_path):
    assert ("model.hidden", "[8, 8, 8]") in card(read(tmp_path)).config
    many = "data: {" + ", ".join(f"k{i}: {i}" for i in range(2 * MOST_KEYS)) + f", long: {'x' * 2000}" + "}\n"
    run = read(tmp_path / "b", config=many)
    assert len(card(run).config) == MOST_KEYS
    assert max(len(value) for _, value in card(read(tmp_path / "c", config=f"a: {'x' * 2000}")).config) == LONGEST


ODD = [
    {},
    {"seconds": "long", "parameters": -3, "metrics": 7, "best": [1], "versions": "new", "reference": {"a": None}},
    {"metrics": {"loss": float("nan"), "accuracy": True}, "best": {"step": "x"}},
]


@pytest.mark.parametrize("summary", ODD)
def test_what_cannot_be_read_is_left_out(tmp_path, summary):
    facts = dict(card(read(tmp_path, summary)).facts)
    assert facts.keys() == {"model", "data", "optimizer"}


def test_a_run_that_says_nothing(tmp_path):
    assert card(read(tmp_path, {}, config="model: 3\n")) == ([], [("model", "3")])


def test_anyones_text_stays_text(tmp_path):
    found = card(Reader(evil_run(tmp_path / "a")).read())
    assert any(EVIL in key + value for key, value in found.config)


def test_nested_keys():
    assert list(flat({})) == []
    assert list(flat({"a": {}, "b": {"c": None}})) == [("a", "{}"), ("b.c", "null")]
