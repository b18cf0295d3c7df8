"""The reader `speech`: every layout, and everything that can be wrong with a recording, named with file and line."""

import json

import numpy as np
import pytest

from jaxprop.config.schema.data import Speech
from jaxprop.data import open_sources
from jaxprop.data.readers.audio.speech import speech_inputs
from jaxprop.errors import DataError

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
RATE = 8000


def write(path, seconds=1.0, rate=RATE, channels=1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).normal(size=(round(seconds * rate), channels))
    soundfile.write(path, noise, rate)
    return path


def section(train, **options):
    return Speech(**{"name": "speech", "train": str(train), "sample_rate": RATE, **options})


def opened(train, **options):
    return open_sources(section(train, **options), "transcribe")


def texts_of(source):
    batch = source.take(np.arange(source.length))
    pairs = zip(batch["labels"], batch["label_lengths"], strict=True)
    return ["".join(source.info["characters"][k - 1] for k in row[:count]) for row, count in pairs]


TEXTS = ["one two", "Three", "four five"]


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest of three recordings, the second one overridden."""

    def make(suffix="jsonl", names=("audio", "text"), texts=TEXTS, **second):
        for i in range(3):
            write(tmp_path / "clips" / f"{i}.wav", **{"seed": i, **(second if i == 1 else {})})
        rows = [{names[0]: f"clips/{i}.wav", names[1]: texts[i]} for i in range(3)]
        path = tmp_path / f"train.{suffix}"
        if suffix == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            between = "\t" if suffix == "tsv" else ","
            path.write_text("\n".join([between.join(names), *(between.join(row.values()) for row in rows)]) + "\n")
        return path

    return make


@pytest.mark.parametrize(
    ("suffix", "names"),
    [("jsonl", ("audio", "text")), ("jsonl", ("audio_filepath", "text")), ("tsv", ("path", "sentence")),
     ("csv", ("file", "transcript"))],
)  # fmt: skip
def test_manifests(manifest, suffix, names):
    train = opened(manifest(suffix, names))["train"]
    assert texts_of(train) == ["one two", "three", "four five"]
    batch = train.take(np.array([2, 0]))
    assert batch["inputs"].shape == (2, RATE)
    assert batch["input_lengths"].tolist() == [RATE, RATE]
    assert train.info["sample_rate"] == RATE


def test_recordings_of_a_manifest_may_lie_in_the_folder_clips(manifest, tmp_path):
    path = manifest("tsv", ("path", "sentence"))
    path.write_text(path.read_text().replace("clips/", ""))
    assert texts_of(opened(path)["train"]) == ["one two", "three", "four five"]


@pytest.mark.parametrize("offset", ["0.5", 0.5])
def test_a_part_of_a_recording_is_refused_where_a_manifest_names_one(manifest, offset):
    """Fault: every row had the whole file with the text of its part."""
    path = manifest()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "offset": 0, "start": "today"}) + "\n" for row in rows))
    assert opened(path)["train"].length == 3
    rows[1]["offset"] = offset
    path.write_text("".join(json.dumps({"offset": None, **row}) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=r"train\.jsonl:2: .*begins within its file \(offset 0\.5\), .* cut it into a file"
    ):
        opened(path)


def test_columns_by_name_and_case(manifest):
    path = manifest("csv", ("clip", "said"))
    with pytest.raises(DataError, match=r"has no column of the audio, such as 'audio' \(it has: 'clip', 'said'\)"):
        opened(path)
    train = opened(path, audio="clip", text="said", lowercase=False)["train"]
    assert texts_of(train)[1] == "Three"
    with pytest.raises(DataError, match=r"has no column 'sad'; did you mean 'said'\?"):
        opened(path, audio="clip", text="sad")


def test_a_folder_of_librispeech(tmp_path):
    for i in range(3):
        write(tmp_path / "84" / "121123" / f"84-121123-000{i}.flac", seed=i)
    (tmp_path / "84" / "121123" / "84-121123.trans.txt").write_text(
        "84-121123-0000 GO DO YOU HEAR\n84-121123-0001\tBUT\n84-121123-0002 HE\n"
    )
    assert texts_of(opened(tmp_path)["train"]) == ["go do you hear", "but", "he"]
    (tmp_path / "84" / "121123" / "84-121123-0001.flac").unlink()
    with pytest.raises(DataError, match=r"84-121123\.trans\.txt:2: there is no 84-121123-0001\.flac"):
        opened(tmp_path)


def test_audio_with_texts_beside(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.wav").with_suffix(".txt").write_text(f"{name} {name}\n")
    assert texts_of(opened(tmp_path)["train"]) == ["a a", "b b"]
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.wav: .*has no a\.txt beside it"):
        opened(tmp_path)


def bad_second(tmp_path, kind):
    path = tmp_path / "clips" / "1.wav"
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello, this is no audio")


WRONG = {
    "missing": (r"1\.wav is not there", {}),
    "cut": (r"1\.wav is cut short: its header says that \d+ bytes more belong to it", {}),
    "empty": (r"1\.wav is an empty file", {}),
    "text": (r"1\.wav is not audio that can be read", {}),
    "no transcript": (r"1\.wav has an empty transcript", {"texts": ["one", " ", "two"]}),
    "transcript too long": (
        r"1\.wav has a transcript that needs 32 outputs of the model, but lasts 1\.00 s, which are 25 of 40 ms",
        {"texts": ["one", "abbc" * 6 + "abbc"[:2], "two"]},
    ),
    "too long": (r"1\.wav lasts 3\.0 s, more than data\.max_seconds \(2\)", {"seconds": 3.0}),
    "two channels": (r"1\.wav has 2 channels; set data\.channels: average", {"channels": 2}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_bad_recording_is_named_with_its_line_and_counted(manifest, tmp_path, kind):
    sentence, options = WRONG[kind]
    path = manifest(**options)
    bad_second(tmp_path, kind)
    settings = {"max_seconds": 2.0, "channels": "refuse"}
    with pytest.raises(DataError, match=rf"train\.jsonl:2: .*{sentence}.*max_bad_fraction: 0\.01"):
        opened(path, **settings)
    train = opened(path, max_bad_fraction=0.4, **settings)["train"]
    assert train.length == 2
    assert any("skipped 1 of 3 recordings" in note for note in train.info["notes"])
    with pytest.raises(DataError, match="1 of 3 recordings cannot be used, more than"):
        opened(path, max_bad_fraction=0.2, **settings)


def test_other_rates_and_channels_are_told(manifest):
    notes = opened(manifest(rate=16_000, channels=2))["train"].info["notes"]
    assert notes == [
        "1 of 3 recordings have another rate (16000 Hz) and are resampled to 8000 Hz",
        "1 of 3 recordings have several channels, whose mean is used",
    ]


def test_what_is_only_seen_when_it_is_decoded_weighs_nothing(tmp_path, manifest):
    path = manifest("csv")
    flac = write(tmp_path / "clips" / "1.flac", seed=5)
    flac.write_bytes(flac.read_bytes()[:4000])
    path.write_text(path.read_text().replace("1.wav", "1.flac"))
    train = opened(path, max_bad_fraction=0.4)["train"]
    assert train.take(np.array([0, 1, 2]))["weight"].tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"train\.csv:3: .*1\.flac"):
        opened(path)["train"].take(np.array([1]))


def test_test_splits_use_the_characters_of_training(manifest, tmp_path):
    path = manifest()
    test = tmp_path / "test.csv"
    test.write_text("audio,text\nclips/0.wav,one\nclips/2.wav,six\n")
    with pytest.raises(DataError, match=r"test\.csv:3: .*has 's' in its transcript, which no training transcript has"):
        opened(path, test=str(test))
    sources = opened(path, test=str(test), max_bad_fraction=0.5)
    assert texts_of(sources["test"]) == ["one"]
    assert sources["test"].info["characters"] == sources["train"].info["characters"]
    again = open_sources(section(tmp_path / "gone", test=str(test), max_bad_fraction=0.5), "transcribe",
                         sources["train"].prepared)  # fmt: skip
    assert set(again) == {"test"}
    labels = [made["test"].take(np.array([0]))["labels"] for made in (again, sources)]
    np.testing.assert_array_equal(*labels)


def test_a_part_is_held_out(manifest):
    sources = opened(manifest(), validation=0.3)
    assert {split: source.length for split, source in sources.items()} == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "is no manifest; expected JSONL, TSV or CSV"),
        ("a.csv", "audio,text\n", "lists no recordings"),
        ("a.jsonl", "", "is empty"),
        ("gone.csv", None, "no such file or folder"),
    ],
)
def test_what_is_no_manifest(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / name)


def test_a_folder_without_audio_and_one_file(tmp_path):
    with pytest.raises(DataError, match="holds no audio files"):
        opened(tmp_path)
    with pytest.raises(DataError, match="is one audio file; give a folder, or a manifest"):
        opened(write(tmp_path / "a.wav"))


def test_recordings_to_predict(tmp_path, manifest, monkeypatch):
    path = manifest(seconds=2.4)
    prepared = opened(path)["train"].prepared
    files = [str(tmp_path / "clips" / f"{i}.wav") for i in range(3)]
    for given in ([str(tmp_path / "clips")], files, [str(path)]):
        (source,) = speech_inputs(section("gone"), "transcribe", prepared, given)
        assert source.info["names"] == files
        batch = source.take(np.arange(3))
        assert batch["input_lengths"].tolist() == [RATE, round(2.4 * RATE), RATE]
        assert batch["inputs"].shape == (3, round(1.5**3 * RATE * 10 + 0.5) // 10 // 800 * 800 + 800)
    (short,) = speech_inputs(section("gone"), "transcribe", prepared, files[:1])
    assert short.take(np.array([0]))["inputs"].shape == (1, RATE)
    (tmp_path / "clips" / "1.wav").write_bytes(b"")
    (left,) = speech_inputs(section("gone"), "transcribe", prepared, files)
    assert left.info["names"] == [files[0], files[2]]
    assert [tuple(one) for one in left.info["bad"]] == [(1, files[1], "is an empty file")]
    (tmp_path / "wrong.csv").write_text(f'audio\n{files[0]}\n""\n{files[2]}\n')
    (third,) = speech_inputs(section("gone"), "transcribe", prepared, [str(tmp_path / "wrong.csv"), "gone.wav"])
    assert third.info["names"] == [files[0], files[2]]
    assert [(one.before, one.name[-11:]) for one in third.info["bad"]] == [(1, "wrong.csv:3"), (2, "gone.wav")]
    with pytest.raises(DataError, match="names no recordings"):
        speech_inputs(section("gone"), "transcribe", prepared, [])


def test_what_cannot_be_predicted_is_told_by_itself(tmp_path):
    good, short, gone = write(tmp_path / "a.wav"), write(tmp_path / "b.wav", 0.01), tmp_path / "c.wav"
    prepared = {"characters": ["a"], "sample_rate": RATE}
    (source,) = speech_inputs(section("gone"), "transcribe", prepared, [str(short), str(good), str(gone)])
    assert source.info["names"] == [str(good)]
    told = [f"{one.name}: {one.why}" for one in source.info["bad"]]
    assert told[0] == f"{short}: lasts 0.010 s, too short to hold a word: an output is of 40 ms"
    assert told[1].startswith(f"{gone}: no such file or folder")
    with pytest.raises(DataError, match=f"^input: {gone}: no such file or folder"):
        speech_inputs(section("gone"), "transcribe", prepared, [str(gone)])


def test_many_recordings_to_predict_are_not_held_together(tmp_path):
    files = [str(write(tmp_path / f"{i:02}.wav", 0.1)) for i in range(40)]
    blocks = list(speech_inputs(section("gone"), "transcribe", {"sample_rate": RATE}, files))
    assert [block.length for block in blocks] == [32, 8]
    assert [name for block in blocks for name in block.info["names"]] == files


def test_standard_input(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav")
    prepared = {"characters": ["a"], "sample_rate": RATE}

    class Stdin:
        def __init__(self, content):
            self.buffer = self
            self.read = lambda *_: content

    monkeypatch.setattr("sys.stdin", Stdin(path.read_bytes()))
    (one,) = speech_inputs(section("gone"), "transcribe", prepared, ["-"])
    monkeypatch.setattr("sys.stdin", Stdin(f"{path}\n\n{path}\n".encode()))
    (two,) = speech_inputs(section("gone"), "transcribe", prepared, ["-"])
    assert (one.length, two.length, two.info["names"]) == (1, 2, [str(path)] * 2)
    np.testing.assert_array_equal(one.take(np.array([0]))["inputs"], two.take(np.array([1]))["inputs"])
