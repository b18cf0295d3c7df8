"""Data prepared as those of a run: training splits that readers leave out, classes by name, and classes added."""

import json

import numpy as np
import pytest

from jaxprop.config.schema.data import Arrays, DigitScenes, Mixture, Table, TextFiles
from jaxprop.data import open_sources
from jaxprop.data.alike import STORED, alike_of, class_names, conformed, open_alike, read_alike, with_classes
from jaxprop.errors import ConfigError, DataError
from jaxprop.types import Source


def write(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def alike(source):
    return alike_of(source.info, json.loads(json.dumps(source.prepared)))


def test_a_table_is_prepared_by_the_rows_of_the_run(tmp_path):
    """The training rows come back, standardized by the run's mean, in the order of its classes."""
    first = write(tmp_path / "a.csv", ["x,kind", "0,cat", "2,dog", "0,cat", "2,dog"])
    second = write(tmp_path / "b.csv", ["x,kind", "11,dog", "3,cat", "11,dog", "3,cat"])
    run = open_sources(Table(name="table", train=first, target="kind"), "classify")["train"]
    for held_out in (None, 0.5):
        section = Table(name="table", train=second, target="kind", test=held_out)
        found = open_alike(open_sources, section, "classify", alike(run))
        assert set(found) == ({"train", "test"} if held_out else {"train"})
        batch = found["train"].take(np.arange(found["train"].length))
        values = {int(label): float(x) for label, x in zip(batch["labels"], batch["inputs"][:, 0], strict=True)}
        assert values == {0: 2.0, 1: 10.0}
        assert found["train"].names(np.array([0]))[0].startswith(f"{second}:")


def test_text_is_read_with_the_tokenizer_of_the_run(tmp_path):
    rows = [json.dumps({"text": word * 3, "mood": mood}) for word, mood in (("good ", "up"), ("bad ", "down"))]
    first, second = (write(tmp_path / name, rows * 4) for name in ("a.jsonl", "b.jsonl"))
    section = TextFiles(name="text", train=first, label="mood")
    run = open_sources(section, "classify")["train"]
    found = open_alike(open_sources, section.model_copy(update={"train": second}), "classify", alike(run))["train"]
    assert np.array_equal(found.take(np.arange(8))["inputs"], run.take(np.arange(8))["inputs"])
    assert found.names(np.array([3])) == [f"{second}:4"]
    part = section.model_copy(update={"train": second, "validation": 0.25})
    assert {name: one.length for name, one in open_alike(open_sources, part, "classify", alike(run)).items()} == {
        "train": 6, "validation": 2,
    }  # fmt: skip


def test_generated_classes_get_the_numbers_of_the_run():
    section = DigitScenes(name="digit_scenes", examples=4, test_examples=2)
    info = {"classes": 11, "class_names": ["x", *(str(digit) for digit in range(10))]}
    own = open_sources(section, "detect")["train"]
    found = open_alike(open_sources, section, "detect", alike_of(info, own.prepared))["train"]
    assert found.info["classes"] == 11
    assert found.prepared["class_names"] == info["class_names"]
    assert np.array_equal(found.take(np.arange(4))["labels"], own.take(np.arange(4))["labels"] + 1)
    assert found.fingerprint != own.fingerprint


def test_columns_of_several_labels_and_characters_move():
    rows = {"labels": np.array([[1.0, 0.0]], np.float32)}
    source = Source(1, lambda _: rows, {"classes": 2, "class_names": ["b", "a"]}, "")
    moved = conformed(source, {"classes": 3, "class_names": ["a", "b", "c"]}, "multilabel")
    assert moved.take(np.zeros(1, np.int64))["labels"].tolist() == [[0, 1, 0]]
    spoken = Source(1, lambda _: {"labels": np.array([[1, 2, 0]])}, {"vocabulary": 3, "characters": ["b", "a"]}, "")
    info = {"vocabulary": 4, "characters": ["a", "b", "c"]}
    assert conformed(spoken, info, "transcribe").take(np.zeros(1, np.int64))["labels"].tolist() == [[2, 1, 0]]
    assert conformed(spoken, info, "transcribe").info["vocabulary"] == 4


def test_a_class_that_the_run_does_not_know_is_named():
    source = Source(1, lambda _: {}, {"classes": 2, "class_names": ["cat", "owl"]}, "")
    with pytest.raises(DataError, match="the data have 'owl', which the run does not know \\('cat', 'dog'\\)"):
        conformed(source, {"classes": 2, "class_names": ["cat", "dog"]}, "classify")


@pytest.mark.parametrize(
    ("task", "info", "prepared", "names"),
    [
        ("classify", {"classes": 2}, {"classes": 2, "shapes": {}}, ["0", "1", "new"]),
        ("classify", {"classes": 1, "class_names": ["a"]}, {"classes": ["a"], "task": "classify"}, ["a", "new"]),
        ("detect", {"classes": 1, "class_names": ["a"]}, {"class_names": ["a"], "left_out": []}, ["a", "new"]),
        ("transcribe", {"characters": ["a"], "vocabulary": 2}, {"characters": ["a"]}, ["a", "new"]),
    ],
)
def test_classes_are_added_at_the_end(task, info, prepared, names):
    made = with_classes(alike_of(info, prepared), ["new"], task)
    assert class_names(made.info, task)[:-1] == names[:-1]
    assert len(class_names(made.info, task)) == len(names)
    changed = [key for key in made.prepared if made.prepared[key] != prepared[key]]
    assert len(changed) == 1
    if task == "transcribe":
        assert made.info["vocabulary"] == 3


def test_classes_that_cannot_be_added():
    with pytest.raises(ConfigError, match="'a' is a class of that run already"):
        with_classes(alike_of({"classes": 1, "class_names": ["a"]}, {}), ["a"], "classify")
    with pytest.raises(ConfigError, match="the task regress has no classes"):
        with_classes(alike_of({"targets": 1}, {}), ["a"], "regress")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.prepared_by: .*prepared\.json cannot be read"):
        read_alike(str(tmp_path))


def test_a_mixture_is_prepared_by_a_run_with_a_class_of_its_own(tmp_path):
    """Each source is scaled as the run was, and what is learned of them prepares them again."""
    rng = np.random.default_rng(0)
    for name, kinds, shift in (("a", 2, 0.0), ("b", 3, 5.0)):
        inputs = rng.normal(shift, 2.0, size=(12, 3)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=np.arange(12) % kinds)
    sections = [
        Arrays(name="arrays", train=str(tmp_path / f"{name}.npz"), test=str(tmp_path / f"{name}.npz"), standardize=True)
        for name in ("a", "b")
    ]
    run = open_sources(sections[0], "classify")["train"]
    (tmp_path / STORED).write_text(json.dumps({"info": run.info, "prepared": run.prepared}))
    section = Mixture(name="mixture", sources=sections, prepared_by=str(tmp_path), new_classes=["2"])
    found = open_sources(section, "classify")
    assert found["train"].info["classes"] == 3
    batch = found["train"].take(np.arange(24))
    assert np.array_equal(batch["inputs"][:12], run.take(np.arange(12))["inputs"])
    assert batch["inputs"][12:].mean() > 1
    assert batch["labels"].tolist() == [*(np.arange(12) % 2), *(np.arange(12) % 3)]
    assert found["train"].names(np.array([13])) == [f"{tmp_path / 'b.npz'}[1]"]
    stored = json.loads(json.dumps(found["train"].prepared))
    again = open_sources(section, "classify", stored)["test"]
    assert again.info["classes"] == 3
    assert np.array_equal(again.take(np.arange(24))["inputs"], found["test"].take(np.arange(24))["inputs"])
    assert again.fingerprint == found["test"].fingerprint
