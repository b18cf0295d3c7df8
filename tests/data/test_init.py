"""Opening the data a config names, for the task it names."""

import numpy as np
import pytest

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
        (
            Digits(name="digits"),
            "language",
            "set data.name: pairs or random or stdlib_text or text, or task.name: classify",
        ),
        (Digits(name="digits"), "regress", "set data.name: arrays or text, or task.name: classify"),
        (
            StdlibText(name="stdlib_text"),
            "classify",
            "set data.name: arrays or digits or random or reviews or text, or task.name: language",
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
