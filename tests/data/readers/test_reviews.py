"""Generated reviews: a rule that makes sense, balanced classes, and test combinations that training has not."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from jaxprop.config.schema.data import Reviews
from jaxprop.data.readers.reviews import ADJECTIVES, MODIFIERS, is_unseen, make_reviews, open_reviews, review_inputs

LONGEST = sorted(MODIFIERS, key=len, reverse=True)
PAIR = re.compile(rf"\b({'|'.join(LONGEST)}) ({'|'.join(ADJECTIVES)})\b")


@pytest.fixture(scope="module")
def train():
    return make_reviews(3000, 0, unseen=False)


@pytest.fixture(scope="module")
def test():
    return make_reviews(600, 0, unseen=True)


def test_classes_are_balanced_and_reviews_differ(train, test):
    for reviews in (train, test):
        assert Counter(label for _, label in reviews) == {0: len(reviews) // 2, 1: len(reviews) // 2}
        assert len({text for text, _ in reviews}) == len(reviews)
    assert not {text for text, _ in train} & {text for text, _ in test}


def test_every_test_review_has_a_pair_that_no_training_review_has(train, test):
    seen = {pair for text, _ in train for pair in PAIR.findall(text)}
    assert len(seen) > 500
    assert not any(is_unseen(*pair) for pair in seen)
    assert all(any(is_unseen(*pair) for pair in PAIR.findall(text)) for text, _ in test)


def test_all_words_of_the_test_are_in_training(train, test):
    words = {word for text, _ in train for word in text.lower().split()}
    assert {word for text, _ in test for word in text.lower().split()} <= words


def test_labels_follow_the_rule(train):
    def value(text):
        modifier, adjective = PAIR.search(text).groups()
        return MODIFIERS[modifier] * ADJECTIVES[adjective]

    checked = Counter()
    for text, label in train:
        total = 0.0
        for sentence in text.lower().rstrip(".").split(". "):
            conceded = re.fullmatch(
                r"(?:although|even though) (?P<a>.*), (?P<b>.*)|(?P<c>.*), (?:but|yet) (?P<d>.*)"
                r"|(?P<f>.*), (?:even if|although) (?P<e>.*)", sentence
            )  # fmt: skip
            if conceded is not None:
                held = conceded.groupdict()
                x = held["a"] or held["c"] or held["e"]
                y = held["b"] or held["d"] or held["f"]
                total += 0.25 * value(x) + value(y)
                checked["contrast"] += 1
            else:
                total += sum(value(part) for part in re.split(r",? and ", sentence))
                checked["joined"] += 1
        assert label == (total > 0), text
        assert abs(total) >= 0.4
    assert min(checked.values()) > 1000


def test_no_word_tells_the_label_by_itself(train):
    right = Counter()
    total = Counter()
    for text, label in train:
        for word in set(re.findall(r"[a-z]+", text.lower())):
            total[word] += 1
            right[word] += label
    shares = {word: right[word] / count for word, count in total.items() if count > 100}
    assert len(shares) > 50
    assert all(0.25 < share < 0.75 for share in shares.values())


def test_reviews_depend_on_the_seed_only(train):
    assert make_reviews(3000, 0, unseen=False) == train
    assert make_reviews(10, 1, unseen=False) != train[:10]
    # written down, so that another Python or machine makes the same data
    assert train[0] == ("The plot was really tedious and the humour was a bit sloppy.", 0)


def section(**keys):
    return Reviews(name="reviews", examples=60, test_examples=20, **keys)


def test_a_stored_run_makes_the_same_test_split(tmp_path, monkeypatch):
    opened = open_reviews(section())
    prepared = json.loads(json.dumps(opened["train"].prepared))
    assert open_reviews(section(), prepared)["test"].fingerprint == opened["test"].fingerprint
    batch = opened["train"].take(np.arange(60))
    assert batch["inputs"].shape == batch["input_mask"].shape == (60, opened["train"].info["max_length"])
    assert batch["labels"].tolist() == opened["train"].labels().tolist() == [0, 1] * 30
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.txt").write_text("The plot was not dull.\n")
    source = review_inputs(section(), prepared, ["new.txt"])
    assert source.info["names"] == ["new.txt:1"]
