"""Packed text: every token but the first is predicted once, and its bytes are counted to the last."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprop.data.packing import Piece, Store, dtype_for, pack, token_counts, unigram_nats, windows_of
from jaxprop.data.tokenizers import of_bytes, train_bpe
from jaxprop.errors import DataError

DOCUMENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["the cat sat on the mat, and that was that. é😀"] * 30, 300)


@pytest.mark.parametrize("limit", [0, 7, 8, 1000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_a_store_gives_back_what_was_appended(limit, dtype):
    store = Store(dtype, limit=limit)
    for part in ([1, 2, 3], [], [4], list(range(5, 12))):
        store.append(part)
    array = store.array()
    assert array.tolist() == list(range(1, 12))
    assert array.dtype == dtype
    assert store.length == 11
    assert isinstance(array, np.memmap) == (11 * array.itemsize > limit)


def test_a_full_disk_is_a_clear_error(monkeypatch):
    class Full:
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxprop.data.packing._unnamed_file", Full)
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
        Store(np.uint8, limit=1).append([1, 2])


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)]
)
def test_the_smallest_dtype_holds_every_token(vocabulary, dtype):
    assert dtype_for(vocabulary) is dtype
    assert np.iinfo(dtype).max >= vocabulary - 1


@settings(deadline=None)
@given(
    texts=st.lists(DOCUMENT, min_size=1, max_size=6), length=st.integers(1, 9), kind=st.sampled_from(["bytes", "bpe"])
)
def test_windows_predict_every_token_but_the_first_once(bpe, texts, length, kind):
    tokenizer = of_bytes() if kind == "bytes" else bpe
    packed = pack([Piece(text) for text in texts], tokenizer, length)
    written = [text for text in texts if text]
    expected = [t for text in written for t in [*tokenizer.encode([text])[0].tolist(), tokenizer.end]]
    assert packed.tokens.tolist() == expected
    assert packed.documents == len(written)
    assert packed.text_bytes == sum(len(text.encode()) + 1 for text in written)
    if len(expected) < 2:
        return
    source = windows_of(packed, length, tokenizer, {})
    batch = source.take(np.arange(source.length))
    held = batch["mask"] == 1
    assert batch["labels"][held].tolist() == expected[1:]
    assert batch["inputs"][held].tolist() == expected[:-1]
    assert not batch["labels"][~held].any()
    if kind == "bpe":
        first = bpe.measured([written[0]])[0][1]
        assert batch["bytes"].sum() == packed.text_bytes - first[0]
        ids, sizes = zip(*[(t, s) for text in written for t, s in _measured(bpe, text)], strict=True)
        assert list(ids) == expected
        starts = np.arange(1, len(sizes), length)
        assert batch["bytes"].tolist() == np.add.reduceat(np.array(sizes), starts).tolist()


def _measured(tokenizer, text):
    tokens, sizes = tokenizer.measured([text])[0]
    return [*zip(tokens.tolist(), sizes.tolist(), strict=True), (tokenizer.end, 1)]


def test_pieces_of_one_document_have_one_end():
    packed = pack([Piece("ab", last=False), Piece("cd"), Piece("", last=False), Piece(""), Piece("e")], of_bytes(), 4)
    assert bytes(packed.tokens.tolist()) == b"abcd\0e\0"
    assert packed.documents == 2


def test_many_pieces_are_encoded_in_groups(monkeypatch):
    monkeypatch.setattr("jaxprop.data.packing._TOGETHER", 5)
    pieces = [Piece(f"text {i}") for i in range(7)]
    packed = pack(pieces, of_bytes(), 4)
    assert bytes(packed.tokens.tolist()) == b"".join(f"text {i}\0".encode() for i in range(7))


def test_tokens_in_a_file_give_the_same_windows(monkeypatch):
    pieces = [Piece(f"text {i}") for i in range(300)]
    kept = windows_of(pack(pieces, of_bytes(), 16), 16, of_bytes(), {})
    monkeypatch.setattr("jaxprop.data.packing.IN_MEMORY", 100)
    packed = pack(pieces, of_bytes(), 16)
    assert isinstance(packed.tokens, np.memmap)
    mapped = windows_of(packed, 16, of_bytes(), {})
    assert mapped.fingerprint == kept.fingerprint
    for name, array in mapped.take(np.arange(mapped.length)).items():
        assert type(array) is np.ndarray
        assert np.array_equal(array, kept.take(np.arange(kept.length))[name])


def test_unigram_counts_do_not_depend_on_the_block(monkeypatch):
    text = np.random.default_rng(0).integers(0, 256, 10_001).astype(np.uint8)
    whole = unigram_nats(text, text)
    monkeypatch.setattr("jaxprop.data.packing._COUNT_BLOCK", 1000)
    assert unigram_nats(text, text) == whole
    assert token_counts(text, 300).sum() == 10_001


def test_the_fingerprint_knows_the_tokenizer(bpe):
    pieces = [Piece("the cat sat")]
    assert windows_of(pack(pieces, bpe, 4), 4, bpe, {}).prepared == {"tokenizer": bpe.stored}
    other = train_bpe(["other texts"] * 9, 270)
    prints = {windows_of(pack(pieces, t, 4), 4, t, {}).fingerprint for t in (bpe, other, of_bytes())}
    assert len(prints) == 3
