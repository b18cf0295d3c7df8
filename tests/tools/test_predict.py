"""Predicting files: every record in order, whatever its batch; what cannot be read is told and the others go on."""

import itertools

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.data import READERS
from jaxprop.data.bad import BadInput
from jaxprop.errors import DataError, UsageError
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.predict import Answer, describe, flat, predict_inputs
from jaxprop.types import Reader, Source
from tests.run.trained import FEATURES, trained

X = np.random.default_rng(2).normal(size=(20, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home")))


def opening(monkeypatch, made):
    """Lets the run's data be read from what a function of the paths returns."""
    monkeypatch.setitem(READERS, "arrays", Reader(READERS["arrays"].open, lambda *_, **__: made))


def source(rows=X, bad=(), **info):
    def take(indices):
        for i in indices.tolist():
            if i in bad:
                raise DataError(f"row {i} is damaged")
        return {"inputs": rows[indices]}

    return Source(len(rows), take, {"names": [f"new.csv:{i + 2}" for i in range(len(rows))], **info}, "")


def predicted(run, **options):
    return list(itertools.chain(*predict_inputs(run, ["new.csv"], **options)))


@pytest.mark.parametrize("batch_size", [None, 1, 7, 100])
def test_every_record_has_its_answer_in_order(run, monkeypatch, batch_size):
    opening(monkeypatch, source())
    answers = predicted(run, batch_size=batch_size)
    assert [answer.input for answer in answers] == [f"new.csv:{i + 2}" for i in range(20)]
    assert [answer.values["label"] for answer in answers] == run.predict(X)["class"].tolist()
    assert all(len(answer.values["top"]) == 3 for answer in answers)


def test_batches_come_as_they_are_done(run, monkeypatch):
    taken = []
    given = source()
    opening(monkeypatch, given._replace(take=lambda rows: taken.append(len(rows)) or given.take(rows)))
    batches = predict_inputs(run, ["new.csv"], batch_size=5)
    assert taken == []
    assert len(next(batches)) == 5
    assert taken == [5]


def test_records_that_cannot_be_read_are_told_and_the_others_go_on(run, monkeypatch):
    opening(monkeypatch, source(bad=(3, 4)))
    answers = predicted(run, batch_size=8)
    assert [i for i, answer in enumerate(answers) if answer.error] == [3, 4]
    assert answers[3] == Answer("new.csv:5", {}, "row 3 is damaged")
    assert answers[3].as_dict() == {"input": "new.csv:5", "error": "row 3 is damaged"}
    good = [i for i in range(20) if i not in (3, 4)]
    assert [answers[i].values["label"] for i in good] == run.predict(X[good])["class"].tolist()


def test_a_batch_of_which_nothing_can_be_read(run, monkeypatch):
    opening(monkeypatch, source(bad=range(4)))
    assert [bool(answer.error) for answer in predicted(run, batch_size=4)[:5]] == [True] * 4 + [False]


def test_a_reader_may_name_bad_records_and_give_blocks(run, monkeypatch):
    opening(monkeypatch, iter([source(X[:2], bad_records=None) for _ in range(2)]))
    assert len(predicted(run)) == 4
    given = source()
    bad = [BadInput(20, "last.csv", "is empty"), BadInput(7, "a: b.csv:9", "has 2 values"), BadInput(7, "x", "y")]
    opening(monkeypatch, given._replace(info={**given.info, "bad": bad}))
    answers = predicted(run, batch_size=4)
    assert [(i, answer) for i, answer in enumerate(answers) if answer.error] == [
        (7, Answer("a: b.csv:9", {}, "has 2 values")),
        (8, Answer("x", {}, "y")),
        (22, Answer("last.csv", {}, "is empty")),
    ]
    assert [answer.input for answer in answers if not answer.error] == given.info["names"]


def test_what_ends_in_the_middle_leaves_what_was_answered(run, monkeypatch):
    def broken():
        yield source(X[:2])
        raise DataError("stdin:3: is longer than 64 MiB")

    opening(monkeypatch, broken())
    assert [answer.error for answer in predicted(run)] == [None, None, "stdin:3: is longer than 64 MiB"]
    opening(monkeypatch, map(load, ["nowhere"]))
    with pytest.raises(UsageError):
        predicted(run)


def test_an_error_does_not_name_its_record_twice(run, monkeypatch):
    def take(_):
        raise DataError("new.png: is no image")

    opening(monkeypatch, Source(1, take, {"names": ["new.png"]}, ""))
    assert predicted(run) == [Answer("new.png", {}, "is no image")]


def test_what_cannot_be_predicted(run, monkeypatch):
    opening(monkeypatch, source())
    with pytest.raises(UsageError, match="standard input can be read once"):
        list(predict_inputs(run, ["-", "-"]))
    monkeypatch.setitem(READERS, "arrays", Reader(READERS["arrays"].open))
    with pytest.raises(UsageError, match=r"first was trained on data.name: arrays, which is not read from files"):
        list(predict_inputs(run, ["new.csv"]))


# -- answers --------------------------------------------------------------------------------------


def test_classes_by_name_and_by_number():
    shares = np.array([[0.1, 0.2, 0.7]], np.float32)
    found = {"class": np.array([2]), "probability": shares[:, 2], "probabilities": shares}
    assert describe(found, 0, {}, top=2) == {"label": 2, "probability": 0.7, "top": {"2": 0.7, "1": 0.2}}
    named = describe(found, 0, {"class_names": ["a", "b", "c"]})
    assert named == {"label": "c", "probability": 0.7, "top": {"c": 0.7, "b": 0.2, "a": 0.1}}
    assert flat(named) == {
        "label": "c", "probability": 0.7, "label_2": "b", "probability_2": 0.2, "label_3": "a", "probability_3": 0.1,
    }  # fmt: skip


def test_several_labels():
    found = {"probability": np.array([[0.9, 0.1, 0.6]], np.float32)}
    said = describe(found, 0, {"class_names": ["a", "b", "c"]})
    assert said == {"labels": ["a", "c"], "probabilities": {"a": 0.9, "b": 0.1, "c": 0.6}}
    assert flat(said) == {"labels": "a c", "probability_a": 0.9, "probability_b": 0.1, "probability_c": 0.6}


@pytest.mark.parametrize(
    ("value", "info", "said"),
    [
        ([[0.1]], {}, {"value": 0.1}),
        ([[0.1]], {"target_names": ["price"]}, {"price": 0.1}),
        ([[1, 2]], {}, {"value_0": 1.0, "value_1": 2.0}),
        ([[1, 2]], {"target_names": ["a", "b"]}, {"a": 1.0, "b": 2.0}),
    ],
)
def test_numbers_by_their_targets(value, info, said):
    assert describe({"value": np.array(value, np.float32)}, 0, info) == said


def test_anything_else_as_it_is():
    found = {
        "token": np.array([[1, 2]]),
        "probability": np.array([[0.1, 0.2]], np.float32),
        "boxes": np.zeros((1, 0, 4)),
    }
    assert describe(found, 0, {}) == {"token": [1, 2], "probability": [0.1, 0.2], "boxes": []}


# -- digits ---------------------------------------------------------------------------------------


def test_digits_in_files(tmp_path):
    from jaxprop.data.readers.digits import load_digits

    sections = {"task": {"name": "classify"}, "data": {"name": "digits", "batch_size": 256}}
    sections |= {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adam", "lr": 0.01}}
    train(build(sections | {"parallel": {"devices": 1}, "run": {"steps": 40}}), tmp_path / "run", quiet=True)
    pixels, labels = load_digits()
    np.save(tmp_path / "new.npy", pixels[:300])
    answers = list(itertools.chain(*predict_inputs(load(tmp_path / "run"), [str(tmp_path / "new.npy")])))
    assert np.mean([answer.values["label"] == label for answer, label in zip(answers, labels[:300], strict=True)]) > 0.9
    assert answers[7].input == f"{tmp_path / 'new.npy'}:7"


# -- texts that are written -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def translating(tmp_path_factory):
    """A run that has learned little, on pairs that are gone."""
    folder = tmp_path_factory.mktemp("translating")
    pairs = [(f"{a}{b}", f"{b} {a}") for a in "abcd" for b in "efgh"]
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{s}\t{t}\n" for s, t in pairs))
    paths = {"train": str(folder / "pairs.tsv"), "validation": 0.2}
    made = build(
        {
            "task": {"name": "translate"},
            "data": {"name": "pairs", "batch_size": 8, **paths},
            "model": {"name": "seq2seq_rnn", "width": 16},
            "optimizer": {"name": "adam", "lr": 0.02},
            "parallel": {"devices": 1},
            "sinks": {"console": False},
            "run": {"steps": 20},
        }
    )
    assert train(made, folder / "run", quiet=True).exit_code == 0
    (folder / "pairs.tsv").unlink()
    return load(folder / "run")


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_translated_whatever_their_batch(translating, beams):
    texts = ["ae", "bf", "cg", "a text that is longer than any", "dh"]
    answers = list(itertools.chain(*predict_inputs(translating, texts, beams=beams)))
    told = {answer.input: answer for answer in answers}
    assert set(told) == set(texts)
    assert told[texts[3]].error == "has 30 tokens, and the model reads 8; split it into sentences"
    for text in (*texts[:3], texts[4]):
        (alone,) = next(iter(predict_inputs(translating, [text], beams=beams)))
        assert alone.values["translation"] == told[text].values["translation"]
        assert alone.values["probability"] == pytest.approx(told[text].values["probability"], rel=1e-3)
        assert alone.as_dict().keys() == {"input", "translation", "probability"}


def test_arrays_give_tokens(translating):
    batch = {"inputs": np.array([[97, 101, 0, 0, 0, 0, 0, 0]]), "input_mask": np.array([[1.0, 1.0, 0, 0, 0, 0, 0, 0]])}
    found = translating.predict(batch)
    (answer,) = next(iter(predict_inputs(translating, ["ae"])))
    written = bytes(found["tokens"][0].tolist()).split(b"\0")[0].decode("utf-8", "replace")
    assert answer.values["translation"] == written
    assert translating.predict(batch, beams=2)["tokens"].shape == found["tokens"].shape


def test_a_run_that_writes_no_text_has_no_beams(run, monkeypatch):
    opening(monkeypatch, source())
    with pytest.raises(UsageError, match="beams: an option of the task translate"):
        predicted(run, beams=2)
