"""`data/readers/random.py`: random examples to measure with."""

import numpy as np
import pytest

from jaxprop.config.schema.data import Random
from jaxprop.data.readers.random import open_random
from jaxprop.errors import DataError

TAKEN = np.array([0, 3, 5])


def test_images_and_classes():
    source = open_random(Random(name="random", shape=(4, 4, 3), classes=7, examples=100), "classify")["train"]
    batch = source.take(TAKEN)
    assert batch["inputs"].shape == (3, 4, 4, 3)
    assert batch["inputs"].dtype == np.float32
    assert source.length == 100
    labels = source.take(np.arange(100))["labels"]
    assert labels.dtype == np.int32
    assert (labels.min(), labels.max()) == (0, 6)
    assert not np.array_equal(batch["inputs"][0], batch["inputs"][1])


def test_texts():
    source = open_random(Random(name="random", shape=(12,), vocabulary=50, examples=9), "language")["train"]
    batch = source.take(TAKEN)
    assert batch["inputs"].shape == batch["labels"].shape == (3, 12)
    assert np.array_equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])
    assert source.info == {"vocabulary": 50}


def test_pairs():
    section = Random(name="random", shape=(12,), vocabulary=50, examples=9)
    source = open_random(section, "translate")["train"]
    batch = source.take(TAKEN)
    assert {x.shape for x in batch.values()} == {(3, 12)}
    assert np.array_equal(batch["targets"][:, 1:], batch["labels"][:, :-1])
    assert not np.array_equal(batch["inputs"], batch["targets"])
    assert source.info == {"vocabulary": 50, "begin": 0, "end": 0}


def test_the_same_every_time_and_named_apart():
    section = Random(name="random", shape=(5,))
    first, again = (open_random(section, "classify")["train"] for _ in range(2))
    assert np.array_equal(first.take(TAKEN)["inputs"], again.take(TAKEN)["inputs"])
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != open_random(Random(name="random", shape=(6,)), "classify")["train"].fingerprint


def test_examples_larger_than_the_pool():
    source = open_random(Random(name="random", shape=(1 << 20, 2)), "classify")["train"]
    assert source.take(np.array([1]))["inputs"].shape == (1, 1 << 20, 2)


def test_a_text_has_one_dimension():
    with pytest.raises(DataError, match=r"write shape: \[3\]"):
        open_random(Random(name="random", shape=(3, 4)), "language")
