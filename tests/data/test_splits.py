"""Parts of a source held out: by class, disjoint, and the same in every run."""

import numpy as np
import pytest

from jaxprop.data.splits import held_out, hold_out, labels_of, subset
from jaxprop.errors import DataError
from jaxprop.types import Source


def source(labels, at_hand=True):
    labels = np.asarray(labels)
    inputs = np.arange(len(labels)) * 10
    taken = []

    def take(indices):
        taken.append(indices)
        return {"inputs": inputs[indices], "labels": labels[indices]}

    return Source(len(labels), take, {"classes": 3}, "f00d", labels=(lambda: labels) if at_hand else None), taken


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_both_parts_have_every_class_in_proportion(fraction):
    labels = np.repeat([0, 1, 2], [40, 20, 60])
    stays, held = hold_out(source(labels)[0], fraction, seed=0)
    assert stays.length + held.length == 120
    assert held.length == np.ceil(120 * fraction)
    for label, count in ((0, 40), (1, 20), (2, 60)):
        assert abs((labels_of(held) == label).sum() - count * fraction) < 1
    both = np.concatenate([labels_and_inputs(part) for part in (stays, held)])
    assert sorted(both[:, 1]) == [10 * i for i in range(120)]
    assert all(labels[pair[1] // 10] == pair[0] for pair in both)


def labels_and_inputs(part):
    batch = part.take(np.arange(part.length))
    return np.stack([batch["labels"], batch["inputs"]], 1)


def test_the_same_part_every_time_and_another_with_another_seed():
    of = source(np.zeros(50, int))[0]
    first, again, other = (hold_out(of, 0.2, seed)[1].fingerprint for seed in (0, 0, 1))
    assert first == again != other


def test_numbers_are_split_without_classes():
    labels = np.random.default_rng(0).normal(size=(30, 2))
    stays, held = held_out(labels, 0.1, seed=3)
    assert (len(stays), len(held)) == (27, 3)
    assert not set(stays) & set(held)


def test_the_parts_have_fingerprints_of_their_own():
    of = source([0, 1, 0, 1])[0]
    stays, held = hold_out(of, 0.5, seed=0)
    assert len({of.fingerprint, stays.fingerprint, held.fingerprint}) == 3


def test_nothing_left_to_train_on():
    with pytest.raises(DataError, match=r"data.validation: 0.9 of the 3 training examples leaves none to train on"):
        hold_out(source([0, 1, 2])[0], 0.9, seed=0)


def test_labels_at_hand_are_not_read_from_the_records():
    of, taken = source([0, 1, 2])
    assert labels_of(of).tolist() == [0, 1, 2]
    assert labels_of(subset(of, np.array([2, 0]))).tolist() == [2, 0]
    assert not taken
    of, taken = source([0, 1, 2], at_hand=False)
    assert labels_of(of).tolist() == [0, 1, 2]
    assert taken


def test_what_there_is_to_tell_is_told_once():
    source = Source(4, lambda i: {"labels": i}, {"classes": 4, "notes": ["once"]}, "f00d")
    stays, held = hold_out(source, 0.5, seed=0)
    assert stays.info == source.info
    assert held.info == {"classes": 4}
