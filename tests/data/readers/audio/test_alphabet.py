"""The characters of transcripts."""

import pytest

from jaxprop.data.readers.audio.alphabet import Alphabet, normalized


@pytest.mark.parametrize(("text", "expected"), [
    ("  one\u00a0two ", "one two"), ("cafe\u0301", "caf\u00e9"), ("\t\n", ""), ("a", "a"),
])  # fmt: skip
def test_texts_are_composed_with_single_spaces(text, expected):
    assert normalized(text) == expected


def test_characters_are_numbered_from_one():
    alphabet = Alphabet.of(["ba", "a c"])
    assert (alphabet.characters, alphabet.vocabulary) == ([" ", "a", "b", "c"], 5)
    assert alphabet.encode("a cab").tolist() == [2, 1, 4, 2, 3]
    assert (alphabet.unknown("abc"), alphabet.unknown("a!")) == (None, "!")
    assert Alphabet.restored({"characters": alphabet.characters}).encode("b").tolist() == [3]
