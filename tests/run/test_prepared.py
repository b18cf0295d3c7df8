"""What a run keeps of its training data, and the stand-in made from it."""

import json

import jax
import numpy as np
import pytest

from jaxprop.errors import UsageError
from jaxprop.run.prepared import NAME, prepared_of, read, stand_in, write
from jaxprop.types import Source


def source():
    labels = np.array([2, 0, 2, 1], np.int32)

    def take(indices):
        return {
            "inputs": {
                "image": np.ones((len(indices), 4, 4, 1), np.float32),
                "ids": np.ones((len(indices), 3), np.int32),
            },
            "labels": labels[indices],
        }

    return Source(
        4,
        take,
        {"classes": 3, "class_names": ["a", "b", "c"], "notes": ["said once"]},
        "f00d",
        prepared={"mean": np.array([0.5, 1.0], np.float32), "scale": np.float32(2.0), "words": ["x"]},
        labels=lambda: labels,
    )


def test_it_comes_back_from_the_file_as_it_was_written(tmp_path):
    prepared = prepared_of(source())
    write(tmp_path, prepared)
    found = read(tmp_path)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found.example) == {
        "inputs": {"image": ((4, 4, 1), np.dtype("float32")), "ids": ((3,), np.dtype("int32"))},
        "labels": ((), np.dtype("int32")),
    }
    assert found.info == {"classes": 3, "class_names": ["a", "b", "c"]}
    assert found.prepared == {"mean": [0.5, 1.0], "scale": 2.0, "words": ["x"]}
    assert (found.length, found.fingerprint, list(found.class_counts)) == (4, "f00d", [1, 1, 2])


def test_the_stand_in_has_the_sizes_and_the_classes_of_the_real_data(tmp_path):
    write(tmp_path, prepared_of(source()))
    stood = stand_in(read(tmp_path))
    real, zeros = source().take(np.arange(3)), stood.take(np.arange(3))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), zeros) == jax.tree.map(lambda x: (x.shape, x.dtype), real)
    assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))
    assert np.bincount(stood.labels()).tolist() == [1, 1, 2]
    assert (stood.length, stood.info["classes"]) == (4, 3)


def test_a_damaged_file_is_told(tmp_path):
    assert read(tmp_path) is None
    for text in ("{", json.dumps({"length": 1}), json.dumps([])):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(UsageError, match=r"prepared\.json is damaged"):
            read(tmp_path)
