"""Opening the data a config names, for the task it names."""

import json

import numpy as np
import pytest

from jaxprop.config.schema import data as schema
from jaxprop.config.schema.data import Arrays, Digits, StdlibText
from jaxprop.data import open_sources
from jaxprop.errors import ConfigError


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", inputs=np.zeros((4, 2)), labels=np.array([[0, 1]] * 4))
    return Arrays(name="arrays", train="train.npz")


@pytest.mark.parametrize(
    ("section", "task", "keys"),
    [
        (Digits(name="digits"), "classify", {"inputs", "labels"}),
        (StdlibText(name="stdlib_text", max_bytes=9_000), "language", {"inputs", "labels", "mask"}),
        (None, "multilabel", {"inputs", "labels"}),
        (None, "regress", {"inputs", "labels"}),
    ],
)
def test_sources_open_by_name(arrays, section, task, keys):
    train = open_sources(section or arrays, task)["train"]
    batch = train.take(np.array([0, 1, 0]))
    assert batch.keys() == keys
    assert all(len(values) == 3 for values in batch.values())
    assert len(train.fingerprint) == 64


@pytest.mark.parametrize(
    ("section", "task", "fix"),
    [
        (Digits(name="digits"), "language", r"set data.name: .*random or stdlib_text.*, or task.name: classify"),
        (Digits(name="digits"), "regress", r"set data.name: arrays or .*, or task.name: classify"),
        (
            StdlibText(name="stdlib_text"),
            "classify",
            r"set data.name: arrays or digits or .*random.*, or task.name: language",
        ),
        (Arrays(name="arrays"), "language", "or task.name: classify or multilabel or regress"),
        (Digits(name="digits"), "dance", "set task.name: classify"),
    ],
)
def test_a_task_that_cannot_use_the_data_is_refused_with_the_fix(section, task, fix):
    with pytest.raises(ConfigError, match=fix):
        open_sources(section, task)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown data 'digit'; did you mean 'digits'"):
        open_sources(Digits.model_construct(name="digit"), "classify")


def kinds(folder):
    """Sections of data whose evaluated splits depend on what was learned of the training data."""
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", inputs=rng.normal(size=(20, 3)), labels=np.arange(20) % 2)
    rows = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(20)]
    (folder / "a.csv").write_text("\n".join(["size,color,kind", *rows]))
    texts = [json.dumps({"text": f"text {i}", "label": "ab"[i % 2]}) for i in range(20)]
    (folder / "a.jsonl").write_text("\n".join(texts))
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (4, 4), np.uint8).tobytes()
            (folder / "images" / name / f"{i}.pgm").write_bytes(b"P5 4 4 255\n" + pixels)
    return {
        "arrays": schema.Arrays(name="arrays", train=f"{folder}/a.npz", validation=0.2, test=f"{folder}/a.npz",
                                standardize=True),
        "table": schema.Table(name="table", train=f"{folder}/a.csv", target="kind", validation=0.2, test=0.2),
        "text": schema.TextFiles(name="text", train=f"{folder}/a.jsonl", label="label", validation=0.2,
                                 test=f"{folder}/a.jsonl"),
        "images": schema.Images(name="images", train=f"{folder}/images", validation=0.2, test=f"{folder}/images"),
        "digits": schema.Digits(name="digits", validation=0.2),
        "reviews": schema.Reviews(name="reviews", examples=20, test_examples=9, validation=0.2),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["arrays", "table", "text", "images", "digits", "reviews"])
def test_splits_are_known_again_by_a_run_that_has_stored_what_it_learned(tmp_path, kind):
    section = kinds(tmp_path)[kind]
    trained = open_sources(section, "classify")
    stored = json.loads(json.dumps(trained["train"].prepared))
    again = open_sources(section, "classify", stored)
    for split in ("validation", "test"):
        assert again[split].fingerprint == trained[split].fingerprint, split
