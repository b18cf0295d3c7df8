"""Labels that look wrong: planted ones come first, and their share is found, whatever the task."""

import numpy as np
import pytest

from jaxprop.tools.retrain.doubts import CONFIDENT, Doubts, confident
from jaxprop.tools.retrain.measure import Measured
from jaxprop.tools.retrain.suspects import SHOWN, asked_of, given_of, look, summary


def measured(losses):
    ones = np.ones(len(losses))
    return Measured(np.arange(len(losses)), {"loss": (np.asarray(losses, float), ones)}, frozenset())


def predictions(rng, length, classes, sure=4.0):
    """Probabilities of a good model, and the true classes."""
    labels = rng.integers(0, classes, length)
    logits = rng.normal(size=(length, classes))
    logits[np.arange(length), labels] += sure
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), labels


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
def test_the_share_of_wrong_labels_is_found_and_they_rank_first(wrong):
    rng = np.random.default_rng(0)
    shares, labels = predictions(rng, 3000, 5)
    bad = np.arange(3000) < wrong * 3000
    given = np.where(bad, (labels + rng.integers(1, 5, 3000)) % 5, labels)
    new = measured(-np.log(shares[np.arange(3000), given]))
    own_shares, own_labels = predictions(rng, 1000, 5)
    own = measured(-np.log(own_shares[np.arange(1000), own_labels]))
    found = look(
        new, own, Doubts(CONFIDENT, confident(shares, given)), Doubts(CONFIDENT, confident(own_shares, own_labels))
    )
    assert abs(found.share - wrong) < 0.05
    assert found.usual < 0.05
    assert bad[found.order[: int(bad.sum() * 0.9)]].mean() > 0.97 if wrong else found.share < 0.05
    # Without probabilities the losses say it, a little less exactly.
    assert abs(look(new, own).share - wrong) < 0.1
    assert look(new, own).usual < 0.01


def test_an_infinite_loss_ranks_first_and_nan_too():
    order = look(measured([0.1, np.inf, 0.5, np.nan]), measured([0.1, 0.2])).order
    assert set(order[:2].tolist()) == {1, 3}
    assert order[2:].tolist() == [2, 0]


def test_suspects_come_first_whatever_their_loss():
    which = np.array([False, True, False, True])
    doubts = Doubts(CONFIDENT, which), Doubts(CONFIDENT, np.zeros(2, bool))
    found = look(measured([9.0, 1.0, 3.0, 2.0]), measured([0.1, 0.2]), *doubts)
    assert found.order.tolist() == [3, 1, 0, 2]
    assert (found.share, found.usual) == (0.5, 0.0)


def test_a_box_is_told_with_what_the_champion_sees_there():
    one = {"box": [1.0, 2.0, 3.0, 4.0], "given": "cat", "champion": "dog", "score": 0.875}
    found = look(
        measured([1.0, 2.0]), measured([1.0]), Doubts("it", np.array([True, False]), [[one], []]),
        Doubts("it", np.array([False]), [[]]),
    )  # fmt: skip
    head, line = summary(found, [{"rank": 1, "name": "a.png", "loss": 1.0, "given": ["cat"], "contradicted": [one]}])
    assert head.startswith("labels: about 50.0% of 2 new training images have a box that looks wrong by it; for the")
    assert line.endswith("loss 1  box [1.0, 2.0, 3.0, 4.0] given 'cat', champion: 'dog' (0.875)")


def test_a_translation_is_told_with_its_source():
    batch = {"inputs": np.array([[5, 6, 9, 0]]), "input_mask": np.array([[1, 1, 1, 0]])}
    assert asked_of(batch, 0, {"decode": str, "end": 9}, "translate") == {"source": "[5, 6]"}
    assert asked_of(batch, 0, {"decode": str, "end": 9}, "language") == {}
    found = look(measured([9.0, 0.0]), measured(np.linspace(0, 1, 100)))
    line = {"rank": 1, "name": "a.tsv:1", "loss": 9.0, "given": "deux", "source": "one", "champion": {"text": "un"}}
    assert summary(found, [line])[1].endswith("loss 9  'one' given 'deux', champion: text 'un'")


def test_what_a_person_is_told():
    found = look(measured([9.0] * 30 + [0.0] * 70), measured(np.linspace(0, 1, 100)))
    worst = [{"rank": i + 1, "name": f"a.csv:{i}", "loss": 9.0, "given": "cat"} for i in range(30)]
    lines = summary(found, worst)
    assert lines[0].startswith(
        "labels: about 29.3% of 100 new training examples look wrong, or unlike what the champion knows, by losses "
        "beyond the 99%"
    )
    assert len(lines) == 1 + SHOWN
    quiet = look(measured([0.0] * 10), measured(np.linspace(0, 1, 100)))
    assert len(summary(quiet, worst)) == 2


@pytest.mark.parametrize(
    ("task", "batch", "info", "said"),
    [
        ("classify", {"labels": np.array([1])}, {}, 1),
        ("multilabel", {"labels": np.array([[1.0, 0.0, 1.0]])}, {"class_names": ["a", "b", "c"]}, ["a", "c"]),
        ("regress", {"labels": np.array([[0.5]])}, {"target_scale": [[10.0, 4.0]]}, [12.0]),
        ("detect", {"labels": np.array([[1, 0, 0]]), "mask": np.array([[1, 1, 0]])}, {"class_names": "ab"}, ["b", "a"]),
        ("transcribe", {"labels": np.array([[2, 1, 0]]), "label_lengths": np.array([2])}, {"characters": "ab"}, "ba"),
        ("translate", {"labels": np.array([[5, 6, 9]]), "mask": np.ones((1, 3))}, {"decode": str, "end": 9}, "[5, 6]"),
        ("language", {"labels": np.array([[5, 6]])}, {}, None),
    ],
)
def test_given_labels_are_told_as_a_person_reads_them(task, batch, info, said):
    assert given_of(batch, 0, info, task) == said


def test_examples_of_new_classes_are_left_to_others():
    """The champion judges no example of a class that it does not know; columns that it has not are cut."""
    from jaxprop.tools.retrain.retrain import of_known_classes
    from jaxprop.types import Source

    one = np.array([0, 2, 1, 3])
    seen = of_known_classes(Source(4, lambda i: {"labels": one[i]}, {}, ""), 2, "classify")
    assert seen.take(np.arange(seen.length))["labels"].tolist() == [0, 1]
    several = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    seen = of_known_classes(Source(2, lambda i: {"labels": several[i]}, {}, ""), 2, "multilabel")
    assert seen.take(np.arange(seen.length))["labels"].tolist() == [[1.0, 0.0]]
    spoken = np.array([[1, 2, 0], [3, 1, 0]])
    seen = of_known_classes(Source(2, lambda i: {"labels": spoken[i]}, {}, ""), 2, "transcribe")
    assert seen.take(np.arange(seen.length))["labels"].tolist() == [[1, 2, 0]]
    assert of_known_classes(seen, None, "regress") is seen
