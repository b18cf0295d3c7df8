"""Classification binds, learns and knows its reference."""

import numpy as np

from jaxprop.tasks.classify import classify


def separable(count, seed):
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(count, 3))
    return (np.eye(3)[labels] + noise).astype(np.float32), labels


def test_learns(bound, learn):
    config, _, task = bound("classify", separable(30, 0), separable(12, 1))
    assert (task.spec.batch["inputs"].shape, task.spec.sizes) == ((3,), {"classes": 3})
    learned = learn(config)
    assert set(learned.after) == {"loss", "accuracy"}
    assert learned.after["loss"] < 0.6 * learned.before["loss"]
    assert learned.after["accuracy"] > 0.9


def test_reference_is_the_most_frequent_training_class_on_test(bound):
    inputs = np.zeros((10, 2), np.float32)
    train = (inputs, np.array([2, 2, 2, 2, 0, 0, 0, 1, 1, 1]))
    test = (inputs[:5], np.array([0, 0, 0, 2, 1]))  # on test another class is the most frequent
    assert bound("classify", train, test)[2].reference == {"majority_accuracy": 0.2}


def test_reference_counts_every_record_of_a_large_split(bound):
    labels = np.r_[np.ones(5000, int), np.zeros(5001, int)]
    split = (np.zeros((10001, 1), np.float32), labels)
    assert bound("classify", split, split)[2].reference == {"majority_accuracy": 5001 / 10001}


def test_no_reference_without_a_test_split(bound):
    config, sources, task = bound("classify", separable(9, 0))
    assert task.reference == {}
    assert classify(config, sources).derived({"loss": 1.0}) == {}


def test_tokens_reach_a_recurrent_network_as_tokens(bound, learn):
    """The class is which of two token identities comes last: as numbers, 1 and 3 against 0, 2 and 4, not in order."""
    tokens = np.random.default_rng(0).integers(0, 5, (60, 4))
    split = (tokens, tokens[:, -1] % 2)
    model = {"name": "rnn", "cell": "elman", "width": 8}
    config, sources, task = bound("classify", split, split, model=model)
    assert task.spec.sizes == {"classes": 2, "vocabulary": 5}
    assert sources["train"].take(np.arange(2))["inputs"].dtype == np.int32
    assert learn(config).after["accuracy"] > 0.95
