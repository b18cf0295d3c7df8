"""Predictions of batches of any size: few programs, the same answers, and sentences about what does not fit."""

import jax
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.run.loaded import load
from jaxprop.run.predictor import fitted
from tests.run.trained import FEATURES, trained

X = np.random.default_rng(2).normal(size=(50, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home")))


def test_any_size_of_a_batch_has_the_same_answers(run):
    whole = run.predict(X)
    for size in (1, 2, 3, 5, 15, 16, 17, 33):
        part = run.predict(X[:size])
        assert part["class"].shape == (size,)
        assert np.allclose(part["probabilities"], whole["probabilities"][:size], atol=1e-6)


def test_few_sizes_are_compiled(run, compilations, monkeypatch):
    run.predict(X)
    ((options, program),) = run.predictor._programs.items()
    sizes = set()

    def seen(params, extras, batch):
        sizes.add(len(batch["inputs"]))
        return program(params, extras, batch)

    monkeypatch.setitem(run.predictor._programs, options, seen)
    for size in range(1, 51):
        run.predict(X[:size])
    assert sizes == {1, 4, 16}  # which is the largest
    before = compilations()
    for size in range(1, 51):
        run.predict(X[:size])
    assert compilations() == before


def test_nothing_is_predicted_of_nothing(run):
    assert run.predict(X[:0])["probabilities"].shape == (0, 3)


def test_names_of_classes_stand_beside_their_numbers(run):
    predictor = run.predictor
    predictor._class_names = ["cat", "dog", "owl"]
    try:
        found = run.predict(X[:9])
    finally:
        predictor._class_names = []
    assert found["label"].tolist() == [["cat", "dog", "owl"][i] for i in found["class"]]


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (X[0], r"inputs: expected \[N, 5\], N examples, got \[5\]; one example is a batch too: x\[None\]"),
        (X[None], r"inputs: expected \[N, 5\], N examples, got \[1, 50, 5\]$"),
        (np.array([["a"] * 5]), "inputs: expected numbers, got dtype <U1"),
        ({"input": X}, r"the batch has no 'inputs'; the model takes inputs float32\[5\]"),
        (X[:, :4], r"the model cannot take inputs float32\[4\] \(.*\); it was trained on inputs float32\[5\]"),
        ({"inputs": X, "other": X[:3]}, "must have one number of examples, got 3, 50"),
        ({}, "must have one number of examples, got none"),
    ],
)
def test_what_does_not_fit(run, batch, sentence):
    with pytest.raises(ShapeError, match=sentence):
        run.predict(batch)


def test_arrays_get_the_dtypes_of_the_training_data():
    example = {"tokens": jax.ShapeDtypeStruct((4,), np.int32), "table": {"x": jax.ShapeDtypeStruct((2,), np.float32)}}
    found = fitted({"tokens": np.ones((3, 4), np.int64), "table": {"x": np.ones((3, 2))}, "labels": [1]}, example)
    assert found["tokens"].dtype == np.int32
    assert found["table"]["x"].dtype == np.float32
    assert "labels" not in found
    with pytest.raises(ShapeError, match="tokens: expected int32, got float32"):
        fitted({"tokens": np.ones((3, 4), np.float32)}, example)
    with pytest.raises(ShapeError, match="table: expected the arrays x"):
        fitted({"table": {"y": np.ones((3, 2))}}, example)
