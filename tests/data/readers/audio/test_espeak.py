"""Numbers spoken by espeak-ng; without the program, one sentence."""

import shutil

import numpy as np
import pytest

from jaxprop.config.schema.data import Espeak
from jaxprop.data.readers.audio import espeak
from jaxprop.errors import ConfigError, DataError

installed = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng (apt install espeak-ng)")
SMALL = {"name": "espeak", "largest": 99, "examples": 6, "test_examples": 3, "voices": ("en-us", "en-gb+f3")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety nine"), (100, "one hundred"),
        (815, "eight hundred fifteen"), (1001, "one thousand one"), (999_999, "nine hundred ninety nine thousand nine "
        "hundred ninety nine"),
    ],
)  # fmt: skip
def test_numbers_in_words(number, text):
    assert espeak.in_words(number) == text


def test_numbers_differ_in_words():
    assert len({espeak.in_words(n) for n in range(12_000)}) == 12_000


def test_without_the_program_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"which is not installed; install it with: apt install espeak-ng$"):
        espeak.open_espeak(Espeak(**SMALL))


def test_a_voice_of_both_splits_is_refused():
    with pytest.raises(ConfigError, match=r"data.test_voices: en-us is one of data.voices, too; a voice belongs to"):
        espeak.open_espeak(Espeak(**SMALL | {"test_voices": ("en-us",)}))
    for voice, splits in (("en-us", "data.validation_voices: en-us"), ("en-us+f2", "data.test_voices: en-us.f2")):
        with pytest.raises(ConfigError, match=splits):
            espeak.open_espeak(Espeak(**SMALL | {"validation_voices": (voice,)}))


def test_splits_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ConfigError, match="use at most 49"):
        espeak.open_espeak(Espeak(**SMALL | {"test_examples": 90}))
    with pytest.raises(ConfigError, match=r"30 and as many for the validation .* use at most 24"):
        espeak.open_espeak(Espeak(**SMALL | {"test_examples": 30, "validation_voices": ("en-us+m4",)}))
    with pytest.raises(ConfigError, match=r"data.validation: data.validation_voices make"):
        espeak.open_espeak(Espeak(**SMALL | {"validation": 0.5, "validation_voices": ("en-us+m4",)}))


@installed
@pytest.mark.parametrize("validation", [None, ("en-us+m4",)])
def test_a_split_of_other_voices_and_numbers(cache, monkeypatch, validation):
    pytest.importorskip("soxr")
    keys = SMALL | {"validation_voices": validation, "examples": 9}
    opened = espeak.open_espeak(Espeak(**keys))
    assert list(opened) == ["train", *(["validation"] if validation else []), "test"]
    texts = {}
    for split, source in opened.items():
        batch = source.take(np.arange(source.length))
        characters = source.info["characters"]
        texts[split] = {
            "".join(characters[k - 1] for k in row[:count])
            for row, count in zip(batch["labels"], batch["label_lengths"], strict=True)
        }
        assert (np.abs(batch["inputs"]).max(1) > 0.05).all()
        assert (batch["input_lengths"] > 0.3 * 8000).all()
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))

    def refuse(*_):
        raise AssertionError("it has spoken already")

    monkeypatch.setattr(espeak, "speak", refuse)
    again = espeak.open_espeak(Espeak(**keys))
    assert {name: source.fingerprint for name, source in again.items()} == {
        name: source.fingerprint for name, source in opened.items()
    }


@installed
def test_a_voice_that_does_not_exist_is_told():
    pytest.importorskip("soxr")
    with pytest.raises(DataError, match="cannot speak with the voice 'xx-nobody'"):
        espeak.open_espeak(Espeak(**SMALL | {"voices": ("xx-nobody",)}))
