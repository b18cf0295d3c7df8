"""Number words: pairs that num2words makes, the same for a seed, and numbers of the test that training has not."""

import numpy as np
import pytest

from jaxprop.config.schema.data import NumberWords, TrainedTokenizer
from jaxprop.data import READERS, open_sources
from jaxprop.data.readers.number_words import FIRST, draw, is_unseen, open_number_words, words
from jaxprop.data.tokenizers import restore
from jaxprop.errors import DataError


def section(**keys):
    return NumberWords(name="number_words", **{"examples": 300, "test_examples": 50} | keys)


def texts(source):
    tokenizer = restore(source.prepared["tokenizer"])
    batch = source.take(np.arange(source.length))
    return [
        tuple(tokenizer.decode(tokens[held == 1].tolist()) for tokens, held in ((s, m), (t, h)))
        for s, m, t, h in zip(batch["inputs"], batch["input_mask"], batch["labels"], batch["mask"], strict=True)
    ]


@pytest.mark.parametrize("tokenizer", ["bytes", TrainedTokenizer(train="bpe", vocabulary=300)])
def test_pairs_are_the_words_of_one_number_each(tokenizer):
    sources = open_sources(section(tokenizer=tokenizer), "translate")
    assert {split: source.length for split, source in sources.items()} == {"train": 300, "test": 50}
    numbers = draw(300, 999_999, 0, unseen=False)
    expected = list(zip(words(numbers, "en", "source"), words(numbers, "fr", "target"), strict=True))
    assert texts(sources["train"]) == expected
    assert expected[71] == ("seventy-one", "soixante et onze")


def test_no_number_of_the_test_is_in_training():
    train, test = (draw(2000, 999_999, 3, unseen=unseen) for unseen in (False, True))
    assert len(set(train)) == len(set(test)) == 2000
    assert not set(train) & set(test)
    assert set(range(FIRST)) <= set(train)
    assert min(test) >= FIRST
    assert all(is_unseen(n) for n in test)


def test_the_validation_holds_out_numbers_that_training_can_do_without():
    whole, sources = texts(open_number_words(section())["train"]), open_number_words(section(validation=0.1))
    assert {split: source.length for split, source in sources.items()} == {"train": 270, "validation": 30, "test": 50}
    train, validation, test = (set(texts(source)) for source in sources.values())
    assert train | validation == set(whole)
    assert not train & validation
    assert not (train | validation) & test
    assert set(zip(words(range(FIRST), "en", "source"), words(range(FIRST), "fr", "target"), strict=True)) <= train
    other = open_number_words(section(validation=0.1, split_seed=1))
    assert set(texts(other["validation"])) != validation
    assert texts(other["test"]) == texts(sources["test"])


def test_names_of_their_own_are_a_tenth_of_many_examples():
    sources = open_number_words(section(examples=3000, validation=0.1))
    assert {split: source.length for split, source in sources.items()} == {"train": 2700, "validation": 300, "test": 50}
    found = texts(sources["train"])
    assert found.count(("seven", "sept")) == 3
    assert len(set(found)) == 2500


def test_what_is_held_out_trains_no_tokenizer():
    tokenizer = TrainedTokenizer(train="bpe", vocabulary=300)
    sources = open_number_words(section(tokenizer=tokenizer, validation=0.3))
    alone = open_number_words(section(tokenizer=tokenizer))
    assert sources["train"].prepared["tokenizer"] != alone["train"].prepared["tokenizer"]
    again = open_number_words(section(tokenizer=tokenizer, validation=0.3), sources["train"].prepared)
    assert {k: v.fingerprint for k, v in again.items()} == {k: v.fingerprint for k, v in sources.items()}


def test_each_number_of_digits_is_drawn_as_often():
    test = draw(600, 9_999_999, 0, unseen=True)
    counts = [sum(len(str(n)) == digits for n in test) for digits in range(3, 8)]
    assert min(counts) > 70
    assert max(draw(600, 4321, 0, unseen=True)) <= 4321


def test_the_seed_alone_decides():
    first, again, other = (draw(200, 9999, seed, unseen=True) for seed in (1, 1, 2))
    assert first == again != other
    assert open_number_words(section())["test"].fingerprint == open_number_words(section())["test"].fingerprint
    assert (
        open_number_words(section())["test"].fingerprint != open_number_words(section(data_seed=1))["test"].fingerprint
    )


def test_what_a_run_has_stored_prepares_it_again():
    tokenizer = TrainedTokenizer(train="bpe", vocabulary=300)
    sources = open_number_words(section(tokenizer=tokenizer))
    again = open_number_words(section(examples=100, tokenizer=tokenizer), sources["train"].prepared)
    np.testing.assert_equal(again["test"].take(np.arange(9)), sources["test"].take(np.arange(9)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"examples": 900, "largest": 999}, r"data.examples: 900 numbers up to 999 are too many; use at most 648"),
        (
            {"test_examples": 900, "largest": 999},
            r"data.test_examples: 900 numbers .* use at most 162, or data.largest",
        ),
        (
            {"validation": 0.7},
            r"data.validation: 0.7 of 300 numbers are 210, which leaves fewer .* use a smaller fraction",
        ),
        ({"target": "xx"}, r"data.target: unknown language 'xx'"),
    ],
)
def test_what_cannot_be_made(keys, message):
    with pytest.raises(DataError, match=message):
        open_number_words(section(**keys))


def test_texts_to_predict():
    stored = open_number_words(section())["train"].prepared
    found = READERS["number_words"].inputs(section(), "translate", stored, ["forty-two", "x" * 300])
    assert found.info["names"] == ["forty-two"]
    assert bytes(found.take(np.array([0]))["inputs"][0, :9].tolist()) == b"forty-two"
    length = stored["lengths"][0]
    assert [f"{one.name}: {one.why}" for one in found.info["bad"]] == [
        f"{'x' * 300}: has 300 tokens, and the model reads {length}; split it into sentences"
    ]
