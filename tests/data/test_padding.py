"""Rows of padded tokens: what is text, what is padding, and what has been cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprop.data.padding import encode, padded, rows
from jaxprop.data.tokenizers import of_bytes

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1)


@given(TEXTS, st.integers(1, 30), st.integers(1, 30))
def test_rows_hold_the_beginning_of_each_text_and_its_mask(texts, limit, length):
    encoded = encode(texts, of_bytes(), limit)
    tokens, mask = rows(encoded, np.arange(len(texts)), length)
    assert tokens.shape == mask.shape == (len(texts), length)
    assert (tokens.dtype, mask.dtype) == (np.int32, np.float32)
    for text, row, held in zip(texts, tokens, mask, strict=True):
        expected = (list(text.encode()) or [0])[: min(limit, length)]
        assert row.tolist() == expected + [0] * (length - len(expected))
        assert held.tolist() == [1.0] * len(expected) + [0.0] * (length - len(expected))


@pytest.mark.parametrize(("limit", "length"), [(512, 16), (12, 12), (9, 9), (3, 3)])
def test_the_length_is_that_of_the_longest_text_rounded_up_to_the_limit(limit, length):
    encoded = encode(["a", "b" * 9, "c" * 3], of_bytes(), limit)
    assert encoded.length(limit) == length
    assert encoded.length(512, np.array([0, 2])) == 8


def test_texts_that_are_cut_are_counted():
    encoded = encode(["a", "b" * 9, "c" * 30], of_bytes(), 8)
    (note,) = encoded.cut_note(8, 8)
    assert note == "2 of 3 texts are longer than data.max_length (8) and are cut; the longest has 30 tokens"
    assert "longest training text (4)" in encoded.cut_note(4, 8)[0]
    assert encode(["a"], of_bytes(), 8).cut_note(8, 8) == []


def test_the_fingerprint_knows_texts_and_length():
    def of(texts, length):
        return padded(encode(texts, of_bytes(), 99), length, of_bytes(), "text").fingerprint

    assert len({of(["ab", "c"], 8), of(["a", "bc"], 8), of(["ab", "c"], 16)}) == 3
    assert of(["ab", "c"], 8) == of(["ab", "c"], 8)


def test_a_great_many_texts_are_encoded_in_groups(monkeypatch):
    monkeypatch.setattr("jaxprop.data.padding._TOGETHER", 3)
    texts = [f"text {i}" for i in range(8)]
    tokens, _ = rows(encode(texts, of_bytes(), 99), np.arange(8), 6)
    assert [bytes(row.tolist()).decode() for row in tokens] == texts


def test_buckets_hold_their_texts():
    texts = ["x" * size for size in [*range(1, 40), 60]]
    source = padded(encode(texts, of_bytes(), 48), 48, of_bytes(), "text", buckets=4)
    assert source.buckets.sizes == (16, 24, 32, 48)
    batch = source.take(np.arange(40))
    for i, place in enumerate(source.buckets.of()):
        size = source.buckets.sizes[place]
        assert not batch["input_mask"][i, size:].any()
        assert place == 0 or batch["input_mask"][i, : source.buckets.sizes[place - 1] + 1].all()
    cut = source.buckets.cut(batch | {"labels": np.arange(40)}, 16)
    assert {name: array.shape for name, array in cut.items()} == {
        "inputs": (40, 16), "input_mask": (40, 16), "labels": (40,),
    }  # fmt: skip
    assert padded(encode(texts, of_bytes(), 48), 48, of_bytes(), "text").buckets is None
    assert padded(encode(["ab", "c"], of_bytes(), 48), 8, of_bytes(), "text", buckets=4).buckets is None
