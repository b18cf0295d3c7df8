"""Data of the user's own code: sources and arrays by split, checked as far as they can be."""

import numpy as np
import pytest

from jaxprop.config.load import load
from jaxprop.data import open_sources
from jaxprop.errors import ConfigError, DataError

MINE = """\
import numpy as np
from jaxprop.types import Source

X, Y = np.linspace(0, 1, 24).reshape(6, 4), np.array([0, 1, 2, 0, 1, 2])

def arrays():
    return {"inputs": X, "labels": Y}

def splits(classes: int = 3):
    return {"train": arrays(), "test": {"inputs": X[:2], "labels": Y[:2], "weight": np.ones(2)}}

def source(length: int = 6, batch_size=None, task=None, prepared=None):
    take = lambda i: {"inputs": X[i].astype(np.float32), "labels": Y[i].astype(np.int32)}
    return Source(length, take, {"classes": 3, "seen": (batch_size, task, prepared)}, "f00d")

def mixed():
    return {"train": source(), "validation": {"inputs": X, "labels": Y, "boxes": np.zeros((6, 2, 4))}}

def more():
    return {"train": {"image": X, "labels": Y, "scale": np.arange(6)}}

def text():
    tokens = np.arange(12).reshape(3, 4)
    return {"inputs": tokens, "labels": tokens + 1}

def two_columns():
    return {"inputs": X, "labels": np.stack([Y % 2, Y % 2], 1), "more": X}

def nothing(): return {}
def number(): return 3
def misnamed(): return {"trian": arrays()}
def test_only(): return {"test": arrays()}
def unequal(): return {"inputs": X, "labels": Y[:3]}
def words(): return {"inputs": np.array(["a"]), "labels": Y}
def empty(): return {"train": source(0)}
def bad_split(): return {"train": 3}
def negative(): return {"inputs": X, "labels": Y - 1}
def infinite(): return {"inputs": X + np.inf, "labels": Y}
def wide(): return {"train": arrays(), "test": {"inputs": X[:, :2], "labels": Y}}
def fails(): return np.load("nowhere.npy")
"""
YAML = "model: {name: rnn}\noptimizer: {name: sgd, lr: 0.1}\nrun: {steps: 1}\n"


@pytest.fixture
def opened(tmp_path):
    def opened(words, task="classify", prepared=None):
        (tmp_path / "mine.py").write_text(MINE)
        (tmp_path / "mine.yaml").write_text(f"{YAML}task: {{name: {task}}}\ndata: {{class: mine.py:{words}}}\n")
        config = load(tmp_path / "mine.yaml").config
        return open_sources(config.data, task, prepared)

    return opened


@pytest.mark.parametrize(
    ("words", "task", "splits", "sizes"),
    [
        ("arrays", "classify", {"train": 6}, {"classes": 3}),
        ("arrays, validation: 0.5", "classify", {"train": 3, "validation": 3}, {"classes": 3}),
        ("splits, classes: 3", "classify", {"train": 6, "test": 2}, {"classes": 3}),
        ("arrays", "regress", {"train": 6}, {"targets": 1}),
        ("mixed", "classify", {"train": 6, "validation": 6}, {"classes": 3}),
        ("more", "classify", {"train": 6}, {"classes": 3}),
        ("text", "language", {"train": 3}, {"vocabulary": 13}),
        ("two_columns", "multilabel", {"train": 6}, {"classes": 2}),
        ("two_columns", "regress", {"train": 6}, {"targets": 2}),
    ],
)
def test_what_it_may_return(opened, words, task, splits, sizes):
    sources = opened(words, task)
    assert {name: source.length for name, source in sources.items()} == splits
    assert sizes.items() <= sources["train"].info.items()
    for source in sources.values():
        batch = source.take(np.array([1, 0]))
        assert {len(values) for values in batch.values()} == {2}
        assert {values.dtype.name for values in batch.values()} <= {"float32", "int32"}
        assert len(source.fingerprint) >= 4


def test_what_it_may_ask_for(opened):
    info = opened("source, batch_size: 8", prepared={"mean": 1})["train"].info
    assert info["seen"] == (8, "classify", {"mean": 1})
    assert list(opened("test_only", prepared={})) == ["test"]


def test_other_contents_have_another_fingerprint(opened):
    names = ("arrays", "more", "text", "two_columns")
    assert len({opened(name, "regress" if name != "text" else "language")["train"].fingerprint for name in names}) == 4
    assert opened("more")["train"].fingerprint == opened("more")["train"].fingerprint


MISTAKES = [
    ("nothing", ConfigError, "expected mine.py:nothing to return a jaxprop Source, a dict of arrays .*; got dict"),
    ("number", ConfigError, "mine.yaml:5: data.class: expected mine.py:number to return .*; got int"),
    ("misnamed", ConfigError, r"mine.py:misnamed returned 'trian'; did you mean 'train'\?"),
    ("test_only", ConfigError, "mine.py:test_only returned no 'train'"),
    ("unequal", DataError, "mine.py:unequal:train: expected arrays with the same number of examples"),
    ("words", DataError, "mine.py:words:train:inputs: expected an array of numbers"),
    ("empty", ConfigError, "the source 'train' that mine.py:empty returned has no records"),
    ("bad_split", ConfigError, "'train' is int"),
    ("negative", DataError, r"mine.py:negative:train:labels\[0\] is -1, but classes count from 0"),
    ("infinite", DataError, r"mine.py:infinite:train:inputs\[0, 0\] is inf"),
    ("wide", DataError, "mine.py:wide:test:inputs holds examples of shape .* train and test must agree"),
    ("fails", ConfigError, r"data.class: mine.py:fails raised FileNotFoundError on line \d+ of mine.py"),
]


@pytest.mark.parametrize(("words", "error", "sentence"), MISTAKES)
def test_one_sentence_for_what_does_not_fit(opened, words, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        opened(words)
    assert "\n" not in str(caught.value)
