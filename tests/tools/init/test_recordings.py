"""Recordings with transcripts of every layout get a config that opens; without transcripts it is told."""

import wave

import numpy as np
import pytest

from jaxprop.config.load import load
from jaxprop.data import open_sources
from jaxprop.errors import UsageError
from jaxprop.tools.init import starter


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.zeros(32000, np.int16).tobytes())


def made(path):
    with open("made.yaml", "w") as file:
        file.write(starter(str(path), "made"))
    return load("made.yaml").config


def splits_of(config):
    pytest.importorskip("soundfile")
    return set(open_sources(config.data, "transcribe"))


def test_a_tree_of_librispeech(here):
    for part in ("train-clean-100", "dev-clean", "test-clean", "test-other"):
        chapter = here / "LibriSpeech" / part / "84" / "121"
        for i in range(4):
            sound(chapter / f"84-121-000{i}.wav")
        (chapter / "84-121.trans.txt").write_text("".join(f"84-121-000{i} GO DO\n" for i in range(4)))
    (here / "LibriSpeech" / "README.TXT").write_text("about it")
    config = made("LibriSpeech")
    assert config.data.train == "LibriSpeech/train-clean-100"
    assert splits_of(config) == {"train", "validation", "test"}


def test_a_list_beside_a_tree_is_what_is_meant(here):
    """Fault: of a folder with a list of recordings and LibriSpeech's tree below it, the tree was taken silently."""
    for i in range(2):
        sound(here / "set" / "libri" / "84" / "121" / f"84-121-000{i}.wav")
        sound(here / "set" / f"{i}.wav")
    (here / "set" / "libri" / "84" / "121" / "84-121.trans.txt").write_text("84-121-0000 GO\n84-121-0001 DO\n")
    (here / "set" / "train.tsv").write_text("audio\ttext\n0.wav\tgo\n1.wav\tdo\n")
    assert made("set").data.train == "set/train.tsv"


def test_one_part_of_librispeech(here):
    sound(here / "dev-clean" / "84" / "121" / "84-121-0000.wav")
    sound(here / "dev-clean" / "84" / "121" / "84-121-0001.wav")
    (here / "dev-clean" / "84" / "121" / "84-121.trans.txt").write_text("84-121-0000 GO\n84-121-0001 DO\n")
    assert splits_of(made("dev-clean")) == {"train", "validation"}


@pytest.mark.parametrize("name", ["list.tsv", "list.csv", "list.jsonl"])
@pytest.mark.parametrize("given", ["set", "set/NAME"])
def test_a_list_of_recordings_in_their_folder_or_by_itself(here, name, given):
    rows = [(f"{i}.wav", "one two") for i in range(12)]
    for file, _ in rows:
        sound(here / "set" / file)
    between = {"list.tsv": "\t", "list.csv": ","}.get(name)
    lines = [f'{{"audio": "{file}", "text": "{text}"}}' for file, text in rows]
    if between:
        lines = [between.join(row) for row in [("audio", "text"), *rows]]
    (here / "set" / name).write_text("\n".join(lines) + "\n")
    config = made(given.replace("NAME", name))
    assert (config.data.name, config.data.train) == ("speech", f"set/{name}")
    assert splits_of(config) == {"train", "validation"}


def test_a_list_for_each_split(here):
    for split in ("train", "dev", "test"):
        sound(here / "set" / f"{split}.wav")
        (here / "set" / f"{split}.csv").write_text(f"file;sentence\n{split}.wav;a\n".replace(";", ","))
    config = made("set")
    assert config.data.validation == "set/dev.csv"
    assert splits_of(config) == {"train", "validation", "test"}


def test_semicolons_are_told_to_the_reader(here):
    rows = "".join(f"{i}.wav;one, two\n" for i in range(12))
    for i in range(12):
        sound(here / "set" / f"{i}.wav")
    (here / "set" / "list.csv").write_text(f"path;text\n{rows}")
    config = made("set/list.csv")
    assert config.data.delimiter == ";"
    assert splits_of(config) == {"train", "validation"}


def test_recordings_with_no_or_several_lists_are_a_sentence(here):
    sound(here / "set" / "a.wav")
    with pytest.raises(UsageError, match=r"set: has recordings without transcripts; put a \.txt file beside each"):
        starter("set", "made")
    for name in ("a.csv", "b.csv"):
        (here / "set" / name).write_text("audio,text\na.wav,a\n")
    sound(here / "set" / "b.wav")
    sound(here / "set" / "c.wav")
    with pytest.raises(UsageError, match=r"several lists of recordings \(a\.csv, b\.csv\); .* jaxprop init set/a\.csv"):
        starter("set", "made")
