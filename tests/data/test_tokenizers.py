"""Tokenizers: what they encode comes back, from files, from training, and from what a run stores."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprop.config.schema.data import TrainedTokenizer
from jaxprop.data import padding
from jaxprop.data.tokenizers import load, make_tokenizer, of_bytes, restore, train_bpe
from jaxprop.errors import DataError, MissingExtraError

TEXTS = ["the cat sat on the mat. ", "naïve café — 日本語 😀\n", "def f(x):\n    return x  # the cat\n"] * 20
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 300)


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A SentencePiece model of its own library, trained on a few sentences."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text("\n".join(f"the cat {i} sat on mat {i}" for i in range(200)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "small"), vocab_size=60, model_type="bpe",
        minloglevel=2,
    )  # fmt: skip
    return folder / "small.model"


@given(ANY_TEXT)
def test_bytes_come_back(text):
    tokenizer = of_bytes()
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text
    assert bytes(tokens.tolist()) == text.encode()


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_a_trained_tokenizer_gives_any_text_back_and_counts_its_bytes(bpe, text):
    (tokens,) = bpe.encode([text])
    assert bpe.decode(tokens) == text
    (measured, sizes), *_ = bpe.measured([text])
    assert measured.tolist() == tokens.tolist()
    assert sizes.sum() == len(text.encode())
    assert (sizes >= 0).all()
    assert tokens.size == 0 or (tokens.min() >= 0 and tokens.max() < bpe.vocabulary)


def test_a_trained_tokenizer_shortens_what_it_has_seen(bpe):
    assert bpe.vocabulary == 300
    assert len(bpe.encode(["the cat sat on the mat. "])[0]) < 12
    assert 0 <= bpe.end < 300
    assert bpe.decode([bpe.end]) == ""


def test_training_is_the_same_in_another_process(bpe):
    code = (
        "import json, sys; from jaxprop.data.tokenizers import train_bpe; "
        "print(json.dumps(train_bpe(json.load(sys.stdin), 300).stored))"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == bpe.stored


def test_a_text_that_spells_the_end_out_does_not_end(bpe):
    (tokens,) = bpe.encode(["<|end|>"])
    assert bpe.end not in tokens
    assert bpe.decode(tokens) == "<|end|>"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
def test_what_is_stored_makes_the_same_tokenizer(kind, bpe, piece_model):
    tokenizer = {"bytes": of_bytes, "bpe": lambda: bpe, "sentencepiece": lambda: load(str(piece_model))}[kind]()
    again = restore(json.loads(json.dumps(tokenizer.stored)))
    text = "the cat sat on mat 7"
    assert again[:4] == tokenizer[:4]
    assert again.encode([text])[0].tolist() == tokenizer.encode([text])[0].tolist()
    assert again.decode(again.encode([text])[0]) == text


def test_a_file_of_the_library_is_read_without_its_padding_and_truncation(tmp_path, bpe):
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(bpe.stored["json"])
    inner.enable_truncation(3)
    inner.enable_padding(length=50)
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = make_tokenizer(str(tmp_path / "tokenizer.json"), list)
    text = "a text of some length, the cat"
    assert loaded.encode([text])[0].tolist() == bpe.encode([text])[0].tolist()
    assert (loaded.kind, loaded.vocabulary, loaded.end) == ("tokenizers", bpe.vocabulary, bpe.end)


def test_a_file_without_a_token_for_the_end_gets_one(tmp_path):
    import tokenizers
    from tokenizers import models, pre_tokenizers

    inner = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = load(str(tmp_path / "tokenizer.json"))
    assert (loaded.vocabulary, loaded.begin, loaded.end) == (4, 3, 3)
    assert loaded.decode([0, 3, 1]) == "a b"
    (tokens, sizes), *_ = loaded.measured(["a  é b "])
    assert tokens.tolist() == [0, 2, 1]
    assert sizes.sum() == len("a  é b ".encode())


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_sentencepiece_counts_all_bytes_of_a_text(piece_model, text):
    tokenizer = load(str(piece_model))
    (tokens, sizes), *_ = tokenizer.measured([text])
    assert tokens.tolist() == tokenizer.encode([text])[0].tolist()
    assert not tokens.size or sizes.sum() == len(text.encode())
    assert (sizes >= 0).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "is no tokenizer of the library tokenizers"),
        (b'{"version": "1.0", "model": {"type": "BPE"}}', "is no tokenizer of the library tokenizers"),
        (b"hello", "neither a tokenizer.json nor a SentencePiece model"),
        (b"", "neither a tokenizer.json nor a SentencePiece model"),
        (bytes(range(256)), "neither a tokenizer.json nor a SentencePiece model"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_a_clear_error(tmp_path, content, message):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bpe", r"write tokenizer: \{train: bpe, vocabulary: 4000\}"),
        ("byte", "did you mean 'bytes'"),
        ("tokeniser.json", "no such file; did you mean 'tokenizer.json'"),
        (".", "is a folder"),
    ],
)
def test_a_file_that_is_not_there_is_a_clear_error(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=message):
        load(name)


@pytest.mark.parametrize(
    "stored", [{"kind": "tokenizers"}, {"kind": "sentencepiece", "model": 7}, {"kind": "other"}, {}]
)
def test_what_is_stored_and_damaged_is_a_clear_error(stored):
    with pytest.raises(DataError, match="stored with the run is damaged"):
        restore(stored)


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("jaxprop.data.tokenizers.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install tokenizers"):
        make_tokenizer(TrainedTokenizer(train="bpe", vocabulary=300), list)


def test_tokens_are_integers(bpe):
    assert np.issubdtype(bpe.encode(["the cat"])[0].dtype, np.integer)
    assert bpe.encode([""])[0].size == 0


def framing(tmp_path):
    """A tokenizer of words that puts [CLS] and [SEP] around a text, as that of BERT does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "film": 4}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[CLS]", "[SEP]"])
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    inner.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_special_tokens_are_around_a_text_and_stay_where_it_is_cut(tmp_path):
    path = framing(tmp_path)
    assert make_tokenizer(path, list).encode(["good film"])[0].tolist() == [3, 4]
    framed = make_tokenizer(path, list, special_tokens=True)
    for tokenizer in (framed, restore(json.loads(json.dumps(framed.stored)))):
        assert tokenizer.encode(["good film"])[0].tolist() == [1, 3, 4, 2]
        assert padding.encode(["good film good", "film"], tokenizer, 4).tokens.tolist() == [1, 3, 4, 2, 1, 4, 2]
        assert tokenizer.decode([1, 3, 4, 2]) == "good film"


@pytest.mark.parametrize("wanted", ["bytes", TrainedTokenizer(train="bpe", vocabulary=300)], ids=["bytes", "trained"])
def test_a_tokenizer_without_special_tokens_is_told(wanted):
    with pytest.raises(DataError, match=r"data\.special_tokens: the tokenizer puts no tokens around a text"):
        make_tokenizer(wanted, lambda: TEXTS, special_tokens=True)
