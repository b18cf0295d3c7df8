"""Your own arrays: what they become, and one clear sentence for each way they can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxprop.config.schema.data import Arrays
from jaxprop.data.readers import array_checks, numpy_files
from jaxprop.data.readers.arrays import ARRAYS, open_arrays
from jaxprop.data.scale import from_json
from jaxprop.errors import ConfigError, DataError

X = np.linspace(0, 1, 24).reshape(6, 2, 2)
CLASSES = np.array([0, 1, 2, 0, 1, 2])
MULTI = np.array([[0, 1, 1], [1, 0, 0]] * 3)
TARGETS = np.linspace(-1, 1, 6)
LABELS = {"classify": CLASSES, "multilabel": MULTI, "regress": TARGETS}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Paths in a config are relative to the current directory."""
    monkeypatch.chdir(tmp_path)


def npz(name="train.npz", inputs=X, labels=CLASSES, **more):
    np.savez(name, **{"inputs": inputs, "labels": labels} | more)


def section(**settings):
    return Arrays(name="arrays", **settings)


def edited(array, index, value, dtype=None):
    out = array.astype(dtype or array.dtype)
    out[index] = value
    return out


def everything(source):
    return source.take(np.arange(source.length))


def open_pair(inputs, labels, task):
    np.save("x.npy", inputs)
    np.save("y.npy", labels)
    return open_arrays(section(train_inputs="x.npy", train_labels="y.npy"), task)["train"]


def open_archive(inputs, labels, task):
    npz(inputs=inputs, labels=labels)
    return open_arrays(section(train="train.npz"), task)["train"]


FORMATS = [open_pair, open_archive]


@pytest.mark.parametrize("opener", FORMATS)
@pytest.mark.parametrize("input_dtype", ["float32", "float64", "float16", ">f4", "uint8", "int64", "bool"])
@pytest.mark.parametrize(
    ("task", "labels", "expected", "info"),
    [
        ("classify", CLASSES, CLASSES.astype(np.int32), {"classes": 3}),
        ("classify", CLASSES.astype(np.uint8), CLASSES.astype(np.int32), {"classes": 3}),
        ("multilabel", MULTI, MULTI.astype(np.float32), {"classes": 3}),
        ("multilabel", MULTI.astype(bool), MULTI.astype(np.float32), {"classes": 3}),
        ("regress", TARGETS, TARGETS.astype(np.float32)[:, None], {"targets": 1}),
        ("regress", CLASSES, CLASSES.astype(np.float32)[:, None], {"targets": 1}),
        ("regress", X[:, 0], X[:, 0].astype(np.float32), {"targets": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_become_batches_of_the_tasks_dtype_and_shape(opener, input_dtype, task, labels, expected, info):
    inputs = (X * 8).astype(input_dtype)
    source = opener(inputs, labels, task)
    batch = everything(source)
    assert source.length == 6
    assert source.info == info
    assert batch["inputs"].dtype == np.float32
    assert type(batch["inputs"]) is type(batch["labels"]) is np.ndarray
    assert np.array_equal(batch["inputs"], inputs.astype(np.float32))
    assert batch["labels"].dtype == expected.dtype
    assert np.array_equal(batch["labels"], expected)
    picked = source.take(np.array([4, 4, 0]))
    assert np.array_equal(picked["labels"], expected[[4, 4, 0]])


@pytest.mark.parametrize("opener", FORMATS)
@pytest.mark.parametrize(
    ("inputs", "vocabulary"),
    [
        (np.arange(24).reshape(6, 4), 24),
        (np.arange(24, dtype=np.uint8).reshape(6, 4), 24),
        (np.arange(24).reshape(6, 4) - 1, None),
        (np.arange(24).reshape(6, 4) + 2**31, None),
        (np.arange(24).reshape(6, 2, 2), None),
        (np.arange(24.0).reshape(6, 4), None),
    ],
    ids=["int64", "uint8", "negative", "beyond int32", "images", "floats"],
)
def test_integers_that_may_be_tokens_stay_integers(opener, inputs, vocabulary):
    source = opener(inputs, CLASSES, "classify")
    found = everything(source)["inputs"]
    assert source.info.get("vocabulary") == vocabulary
    assert found.dtype == (np.float32 if vocabulary is None else np.int32)
    np.testing.assert_array_equal(found, inputs.astype(found.dtype))


def test_the_vocabulary_is_that_of_every_split():
    npz(inputs=np.arange(24).reshape(6, 4))
    npz("test.npz", inputs=np.full((6, 4), 40))
    sources = open_arrays(section(train="train.npz", test="test.npz"), "classify")
    far = {
        "if_numbers": [
            "train.npz:inputs: feature 3 has the mean 13 and the standard deviation 6.83, far from unit scale; "
            "set data.standardize: true"
        ]
    }
    assert sources["test"].info == {"classes": 3, "vocabulary": 41}
    assert sources["train"].info == sources["test"].info | far


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_are_mapped_and_not_read_into_memory(order):
    np.save("x.npy", np.asarray(X, order=order))
    named = numpy_files.load_npy("x.npy")
    assert isinstance(named.values, np.memmap)
    assert np.array_equal(
        everything(open_pair(np.asarray(X, order=order), CLASSES, "classify"))["inputs"], np.float32(X)
    )


def test_a_test_split_is_opened_beside_and_shares_the_classes():
    npz()
    npz("test.npz", inputs=X[:2], labels=CLASSES[:2])
    sources = open_arrays(section(train="train.npz", test="test.npz"), "classify")
    assert {split: source.length for split, source in sources.items()} == {"train": 6, "test": 2}
    assert sources["test"].info == sources["train"].info == {"classes": 3}
    assert sources["test"].fingerprint != sources["train"].fingerprint


def test_classes_may_be_stated_beyond_those_seen():
    npz()
    assert open_arrays(section(train="train.npz", classes=7), "classify")["train"].info == {"classes": 7}


def test_the_fingerprint_follows_the_contents_and_the_task():
    seen = {
        open_archive(X, CLASSES, "classify").fingerprint,
        open_archive(X, CLASSES, "regress").fingerprint,
        open_archive(edited(X, (5, 1, 1), 0.5), CLASSES, "classify").fingerprint,
        open_archive(X, CLASSES[::-1], "classify").fingerprint,
    }
    assert len(seen) == 4
    assert open_archive(X, CLASSES, "classify").fingerprint in seen


BAD_VALUES = [
    # task, inputs, labels, what the message must say
    ("classify", edited(X, (3, 1, 0), np.nan), CLASSES, r"\[3, 1, 0\] is nan, which is not a finite float32"),
    ("classify", edited(edited(X, (5, 0, 0), np.nan), (4, 0, 1), -np.inf), CLASSES, r"\[4, 0, 1\] is -inf"),
    ("classify", edited(X, (2, 0, 0), 1e300), CLASSES, r"\[2, 0, 0\] is 1e\+300, which is not a finite float32"),
    ("classify", X.astype(complex), CLASSES, "expected real numbers, got dtype complex128"),
    ("classify", X.astype(str), CLASSES, "expected real numbers, got dtype <U"),
    ("classify", X.astype(object), CLASSES, "Python objects .*np.asarray"),
    ("classify", X, CLASSES.astype(object), "Python objects"),
    ("classify", X[:0], CLASSES[:0], r"is empty \(shape \(0, 2, 2\)\)"),
    ("classify", X[:, :0], CLASSES, r"is empty \(shape \(6, 0, 2\)\)"),
    ("classify", X, CLASSES[:0], r"is empty \(shape \(0,\)\)"),
    ("classify", np.float32(1), CLASSES, "first axis, got a single number"),
    ("classify", X, CLASSES[:5], "has 6 examples but .* has 5; the first axes must agree"),
    ("classify", X, CLASSES.astype(float), r"expected integer classes, got dtype float64; .*astype\(np.int32\)"),
    ("classify", X, CLASSES.astype(bool), "expected integer classes, got dtype bool"),
    ("classify", X, CLASSES[:, None], r"shape \[N\], got shape \(6, 1\); .*reshape\(-1\)"),
    ("classify", X, np.eye(6, dtype=int), r"shape \[N\], got shape \(6, 6\); .*argmax\(-1\)"),
    ("classify", X, edited(CLASSES, 4, -1), r"\[4\] is -1, but classes count from 0"),
    ("classify", X, edited(CLASSES, 4, 2**40), r"\[4\] is 1099511627776, so that there would be"),
    ("multilabel", X, CLASSES, r"zeros and ones of shape \[N, K\], got shape \(6,\)"),
    ("multilabel", X, edited(MULTI, (2, 1), 2), r"\[2, 1\] is 2, expected 0 or 1"),
    ("multilabel", X, edited(MULTI, (2, 1), 0.5, float), r"\[2, 1\] is 0.5, expected 0 or 1"),
    ("multilabel", X, edited(MULTI, (5, 2), np.nan, float), r"\[5, 2\] is nan, expected 0 or 1"),
    ("regress", X, edited(TARGETS, 3, np.inf), r"\[3\] is inf, which is not a finite float32"),
    ("regress", X, X, r"targets of shape \[N\] or \[N, K\], got \(6, 2, 2\)"),
]


@pytest.mark.parametrize("opener", FORMATS)
@pytest.mark.parametrize("chunk", [1, 3, 2**20])
@pytest.mark.parametrize(("task", "inputs", "labels", "message"), BAD_VALUES, ids=[case[3][:32] for case in BAD_VALUES])
def test_bad_values_are_refused_with_their_place(opener, chunk, task, inputs, labels, message, monkeypatch):
    monkeypatch.setattr(array_checks, "CHECK_VALUES", chunk)
    with pytest.raises(DataError, match=message) as caught:
        opener(inputs, labels, task)
    assert str(caught.value).startswith(("train.npz", "x.npy", "y.npy"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("test_inputs", "test_labels", "classes", "message"),
    [
        (X, edited(CLASSES, 1, 3), None, r"test.npz:labels\[1\] is 3, outside the classes 0..2 .*data.classes: 4"),
        (X, CLASSES, 2, r"train.npz:labels\[2\] is 2, outside the classes 0..1 \(2: data.classes\).*data.classes: 3"),
        (
            X[:, :1],
            CLASSES,
            None,
            r"test.npz:inputs holds examples of shape \(1, 2\), but train.npz:inputs of .*\(2, 2\)",
        ),
        (edited(X, (1, 0, 0), np.nan), CLASSES, None, r"test.npz:inputs\[1, 0, 0\] is nan"),
    ],
)
def test_the_test_split_must_fit_the_train_split(test_inputs, test_labels, classes, message):
    npz()
    npz("test.npz", inputs=test_inputs, labels=test_labels)
    with pytest.raises(DataError, match=message):
        open_arrays(section(train="train.npz", test="test.npz", classes=classes), "classify")


@pytest.mark.parametrize(("task", "labels"), [("multilabel", MULTI), ("regress", TARGETS)])
def test_test_labels_must_have_the_train_labels_columns(task, labels):
    npz(labels=labels)
    npz("test.npz", labels=MULTI[:, :2])
    with pytest.raises(DataError, match=r"test.npz:labels holds examples of shape \(2,\)"):
        open_arrays(section(train="train.npz", test="test.npz"), task)


@pytest.mark.parametrize(
    ("task", "classes", "fits"), [("multilabel", 3, True), ("multilabel", 4, False), ("regress", 1, False)]
)
def test_classes_are_checked_where_labels_have_columns(task, classes, fits):
    npz(labels=LABELS[task])
    if fits:
        assert open_arrays(section(train="train.npz", classes=classes), task)["train"].info == {"classes": classes}
    else:
        with pytest.raises(DataError, match=f"data.classes is {classes}, .* leave data.classes out"):
            open_arrays(section(train="train.npz", classes=classes), task)


def make_files():
    npz()
    np.save("x.npy", X)
    np.savez("keys.npz", x=X, label=CLASSES)
    np.savez("none.npz")
    good = Path("train.npz").read_bytes()
    Path("empty.npz").write_bytes(b"")
    Path("words.npz").write_bytes(b"these are words")
    Path("cut.npz").write_bytes(good[:200])
    Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:150])
    Path("really.npz").write_bytes(Path("x.npy").read_bytes())
    Path("flipped.npz").write_bytes(good[:200] + bytes([good[200] ^ 0xFF]) + good[201:])


BAD_FILES = [
    ({"train": "tran.npz"}, r"tran.npz: no such file under .*; did you mean 'train.npz'\?"),
    ({"train": "far/away.npz"}, "far/away.npz: no such file"),
    ({"train": "."}, "got a directory"),
    ({"train": "keys.npz"}, r"keys.npz: has no array 'inputs' \(it holds: x, label\); write np.savez"),
    ({"train": "none.npz"}, r"none.npz: has no array 'inputs' \(it holds: nothing\)"),
    ({"train": "empty.npz"}, "empty.npz: is empty; write it again with np.save or np.savez"),
    ({"train": "words.npz"}, "words.npz: is a text file, which data.name: text reads; write data: {name: text, train"),
    ({"train": "cut.npz"}, "cut.npz: is damaged"),
    ({"train": "flipped.npz"}, "flipped.npz:inputs: is damaged"),
    ({"train": "really.npz"}, "really.npz: expected a .npz file, got a .npy; .*train_inputs"),
    ({"train_inputs": "cut.npy", "train_labels": "x.npy"}, "cut.npy: is damaged"),
    (
        {"train_inputs": "train.npz", "train_labels": "x.npy"},
        "train.npz: expected a .npy file, got a .npz; .*data.train",
    ),
    ({"train_inputs": "x.npy", "train_labels": "y.npy"}, "y.npy: no such file"),
    ({"train": "train.npz", "test": "tests.npz"}, "tests.npz: no such file"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_FILES, ids=[message[:24] for _, message in BAD_FILES])
def test_bad_files_are_refused_by_name(settings, message):
    make_files()
    with pytest.raises(DataError, match=message) as caught:
        open_arrays(section(**settings), "classify")
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_refused_with_the_systems_reason(monkeypatch):
    npz()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        open_arrays(section(train="train.npz"), "classify")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no training data; set data.train"),
        ({"test": "train.npz"}, "names no training data"),
        ({"train": "train.npz", "train_inputs": "x.npy"}, "both set; keep"),
        ({"train": "train.npz", "train_labels": "x.npy"}, "both set; keep"),
        ({"train_inputs": "x.npy"}, "data.train_labels is not set"),
        ({"train": "train.npz", "test_labels": "x.npy"}, "data.test_inputs is not set"),
    ],
)
def test_settings_that_contradict_each_other_are_config_errors(settings, message):
    make_files()
    with pytest.raises(ConfigError, match=message):
        open_arrays(section(**settings), "classify")


# -- weights, masks, and what is not used -----------------------------------------------------------

WEIGHT = np.array([1, 0, 2.5, 1, 1, 0])


def test_weights_and_masks_are_used():
    npz(weight=WEIGHT, mask=WEIGHT > 0)
    source = open_arrays(section(train="train.npz"), "classify")["train"]
    batch = source.take(np.array([2, 1]))
    assert (batch["weight"].tolist(), batch["weight"].dtype) == ([2.5, 0], np.float32)
    assert (batch["mask"].tolist(), batch["mask"].dtype) == ([1, 0], np.float32)
    assert "notes" not in source.info
    npz(labels=MULTI, mask=MULTI)
    assert everything(open_arrays(section(train="train.npz"), "multilabel")["train"])["mask"].shape == (6, 3)


def test_weights_are_part_of_the_fingerprint():
    prints = []
    for weight in (None, WEIGHT, WEIGHT * 2):
        npz(**({} if weight is None else {"weight": weight}))
        prints.append(open_arrays(section(train="train.npz"), "classify")["train"].fingerprint)
    npz(mask=WEIGHT)
    prints.append(open_arrays(section(train="train.npz"), "classify")["train"].fingerprint)
    assert len(set(prints)) == 4
    assert prints[0] == open_pair(X, CLASSES, "classify").fingerprint


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_labels_that_count_for_nothing_may_hold_anything(name):
    npz(labels=edited(CLASSES, [1, 5], -100), **{name: WEIGHT})
    source = open_arrays(section(train="train.npz"), "classify")["train"]
    assert source.info["classes"] == 3
    assert everything(source)["labels"].tolist() == [0, 0, 2, 0, 1, 0]
    npz(labels=edited(TARGETS, [1], np.nan), **{name: WEIGHT})
    assert np.isfinite(everything(open_arrays(section(train="train.npz"), "regress")["train"])["labels"]).all()


@pytest.mark.parametrize("name", ["weight", "mask"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (edited(WEIGHT, 2, np.nan), r"\[2\] is nan, which is not a finite float32"),
        (edited(WEIGHT, 2, np.inf), r"\[2\] is inf, which is not a finite float32"),
        (edited(WEIGHT, 3, -0.5), r"\[3\] is -0.5, but what an example counts is never negative"),
        (WEIGHT[:5], r": expected shape \(6,\) for labels of shape \(6,\), got \(5,\)"),
        (WEIGHT[:, None], r": expected shape \(6,\) for labels of shape \(6,\), got \(6, 1\)"),
        (np.zeros(6), ": is zero everywhere, so that no example counts; leave it out"),
        (np.array(list("abcdef")), ": expected real numbers, got dtype <U1"),
    ],
)
def test_weights_that_cannot_be_meant(name, values, sentence):
    npz(**{name: values})
    with pytest.raises(DataError, match=f"^train.npz:{name}{sentence}"):
        open_arrays(section(train="train.npz"), "classify")


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"ids": X}, "train.npz: the array ids is not used; jaxprop reads inputs, labels, weight and mask"),
        (
            {"ids": X, "weights": WEIGHT},
            "train.npz: the arrays ids, weights are not used; jaxprop reads inputs, labels, weight and mask; "
            "did you mean 'weight'?",
        ),
    ],
)
def test_other_arrays_are_named(more, note):
    npz(**more)
    assert open_arrays(section(train="train.npz"), "classify")["train"].info["notes"] == [note]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3, 1, 2, 3], ["train.npz:labels: labels begin at 1, so that class 0 has no example; subtract 1 from"]),
        ([0, 3, 1, 0, 3, 1], ["train.npz:labels: class 2 of 0..3 has no example; number the classes without gaps"]),
        ([0, 9, 1, 0, 9, 1], ["train.npz:labels: 7 of the classes 0..9 have no example, such as class 2; number"]),
        ([0, 2, 1, 0, 2, 1], []),
    ],
)
def test_classes_without_an_example_are_told(labels, said):
    npz(labels=np.array(labels))
    notes = open_arrays(section(train="train.npz"), "classify")["train"].info.get("notes", [])
    assert len(notes) == len(said)
    assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))
    stated = section(train="train.npz", classes=max(labels) + 1)
    assert "notes" not in open_arrays(stated, "classify")["train"].info


# -- validation, scale, and runs that are used without their training data ---------------------------


def everything_again(prepared):
    return json.loads(json.dumps(prepared))


def test_validation_by_path_and_by_fraction():
    npz()
    npz("held.npz", inputs=X[:2], labels=CLASSES[:2])
    sources = open_arrays(section(train="train.npz", validation="held.npz"), "classify")
    assert {name: source.length for name, source in sources.items()} == {"train": 6, "validation": 2}
    np.save("x.npy", X)
    np.save("y.npy", CLASSES)
    pair = section(train="train.npz", validation_inputs="x.npy", validation_labels="y.npy")
    assert open_arrays(pair, "classify")["validation"].length == 6
    held = open_arrays(section(train="train.npz", validation=0.5), "classify")
    assert sorted(held["validation"].labels().tolist()) == [0, 1, 2]
    assert sorted(held["train"].labels().tolist()) == [0, 1, 2]
    both = np.concatenate([everything(held["train"])["inputs"], everything(held["validation"])["inputs"]])
    assert sorted(both[:, 0, 0]) == sorted(np.float32(X)[:, 0, 0])
    with pytest.raises(DataError, match=r"data.validation: 0.99 of the 6 training examples leaves none"):
        open_arrays(section(train="train.npz", validation=0.99), "classify")


@pytest.mark.parametrize("standard", [True, False])
def test_standardized_by_the_training_part_alone(standard):
    npz(inputs=X * 1000 + 5)
    npz("test.npz", inputs=X, labels=CLASSES)
    given = section(train="train.npz", test="test.npz", validation=0.5, standardize=standard)
    sources = open_arrays(given, "classify")
    train = everything(sources["train"])["inputs"]
    assert train.dtype == np.float32
    if standard:
        np.testing.assert_allclose(train.mean((0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(train.std((0, 1)), 1, atol=1e-5)
        scale = from_json(sources["train"].prepared["scale"])
        expected = (X.astype(np.float64) - scale.mean) / scale.std
        np.testing.assert_allclose(everything(sources["test"])["inputs"], expected, rtol=1e-5)
    notes = sources["train"].info.get("notes", [])
    assert [note.endswith("far from unit scale; set data.standardize: true") for note in notes] == [True] * (
        not standard
    )
    assert "notes" not in sources["test"].info


def test_standardized_integers_are_numbers_and_no_tokens():
    npz(inputs=np.arange(24).reshape(6, 4))
    source = open_arrays(section(train="train.npz", standardize=True), "classify")["train"]
    assert "vocabulary" not in source.info
    assert everything(source)["inputs"].dtype == np.float32


@pytest.mark.parametrize("task", LABELS)
def test_a_run_is_used_without_its_training_file(task):
    npz(inputs=X * 100, labels=LABELS[task])
    npz("test.npz", inputs=X[:4] * 100, labels=LABELS[task][:4])
    given = section(train="train.npz", test="test.npz", validation=0.3, standardize=True)
    first = open_arrays(given, task)
    prepared = everything_again(first["train"].prepared)
    again = open_arrays(given, task, prepared)
    assert again["validation"].fingerprint == first["validation"].fingerprint
    Path("train.npz").unlink()
    sources = open_arrays(given, task, prepared)
    assert list(sources) == ["test"]
    for name, values in everything(first["test"]).items():
        assert np.array_equal(everything(sources["test"])[name], values)
    assert sources["test"].info == first["test"].info
    assert sources["test"].fingerprint == first["test"].fingerprint


@pytest.mark.parametrize(
    ("inputs", "labels", "why"),
    [
        (X[:, :1], CLASSES, r"test.npz:inputs holds examples of shape \(1, 2\), but the run was trained on examples"),
        (X, CLASSES + 1, r"test.npz:labels\[2\] is 3, outside the classes 0..2 \(3: of the run\); correct that label$"),
    ],
)
def test_other_test_data_must_fit_the_run(inputs, labels, why):
    npz()
    prepared = everything_again(open_arrays(section(train="train.npz"), "classify")["train"].prepared)
    npz("test.npz", inputs=inputs, labels=labels)
    with pytest.raises(DataError, match=why):
        open_arrays(section(train="train.npz", test="test.npz"), "classify", prepared)


@pytest.mark.parametrize("tokens", [False, True])
def test_inputs_to_predict(tokens):
    inputs = np.arange(24).reshape(6, 4) if tokens else X
    npz(inputs=inputs)
    given = section(train="train.npz")
    train = open_arrays(given, "classify")["train"]
    np.save("new.npy", inputs[:3])
    source = ARRAYS.inputs(given, "classify", everything_again(train.prepared), ["new.npy", "train.npz"])
    assert source.length == 9
    assert source.info["names"][:4] == ["new.npy:0", "new.npy:1", "new.npy:2", "train.npz:0"]
    found = source.take(np.array([8, 0, 3]))["inputs"]
    assert np.array_equal(found, train.take(np.array([5, 0, 0]))["inputs"])
    assert found.dtype == train.take(np.array([0]))["inputs"].dtype


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (X[0], r"shape \(2,\), but the run takes \(2, 2\); for one example, save it as values\[None\]"),
        (X[:, :1], r"shape \(1, 2\), but the run takes \(2, 2\)$"),
        (X[:0], "is empty"),
        (X.astype(str), "expected real numbers"),
    ],
)
def test_inputs_that_do_not_fit_the_run_are_refused(inputs, why):
    npz()
    given = section(train="train.npz")
    prepared = open_arrays(given, "classify")["train"].prepared
    np.save("new.npy", inputs)
    with pytest.raises(DataError, match=why):
        ARRAYS.inputs(given, "classify", prepared, ["new.npy"])


def test_examples_that_cannot_be_predicted_are_told_and_the_others_are_predicted():
    npz()
    given = section(train="train.npz")
    train = open_arrays(given, "classify")["train"]
    np.save("new.npy", edited(edited(X[:4], (1, 0, 1), np.nan), (2, 1, 0), 1e39))
    source = ARRAYS.inputs(given, "classify", train.prepared, ["new.npy", "gone.npy", "new.npy"])
    assert source.info["names"] == ["new.npy:0", "new.npy:3"] * 2
    told = [
        (1, "new.npy:1", "its value at [0, 1] is nan, which is not a finite float32"),
        (1, "new.npy:2", "its value at [1, 0] is 1e+39, which is not a finite float32"),
    ]
    later = [(before + 2, name, why) for before, name, why in told]
    assert [one for one in source.info["bad"] if one.name != "gone.npy"] == told + later
    gone = source.info["bad"][2]
    assert (gone.before, gone.name, gone.why.partition(" under")[0]) == (2, "gone.npy", "no such file")
    assert np.array_equal(source.take(np.arange(4))["inputs"], train.take(np.array([0, 3, 0, 3]))["inputs"])


def test_tokens_beyond_the_vocabulary_of_the_run_are_told():
    npz(inputs=np.arange(24).reshape(6, 4))
    given = section(train="train.npz")
    prepared = open_arrays(given, "classify")["train"].prepared
    np.save("new.npy", np.array([[1, 2, 24, 3], [1, 2, 3, 4], [-1, 2, 3, 4]]))
    source = ARRAYS.inputs(given, "classify", prepared, ["new.npy"])
    assert source.info["bad"] == [
        (0, "new.npy:0", "its value at [2] is 24, outside the vocabulary 0..23 of the run"),
        (1, "new.npy:2", "its value at [0] is -1, outside the vocabulary 0..23 of the run"),
    ]
    assert source.take(np.array([0]))["inputs"].tolist() == [[1, 2, 3, 4]]
    np.save("new.npy", np.zeros((1, 4)))
    with pytest.raises(DataError, match="expected integers, as the training inputs are"):
        ARRAYS.inputs(given, "classify", prepared, ["new.npy"])


# -- tokens and their padding -----------------------------------------------------------------------

PADDED = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6], [0, 0, 0], [1, 1, 0], [2, 0, 0]])


def test_a_mask_of_tokens_is_used():
    npz(inputs=PADDED, labels=edited(CLASSES, 3, -100), mask=PADDED > 0)
    source = open_arrays(section(train="train.npz"), "classify")["train"]
    batch = everything(source)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((6, 3), np.float32)
    np.testing.assert_array_equal(batch["mask"], PADDED > 0)
    assert batch["labels"][3] == 0  # a sequence without any token counts for nothing
    assert source.info["vocabulary"] == 7


def test_a_mask_that_could_be_of_tokens_or_of_labels_is_refused():
    npz(inputs=PADDED, labels=MULTI, mask=PADDED > 0)
    with pytest.raises(DataError, match=r"^train.npz:mask: it has the shape of both inputs and labels, \(6, 3\)"):
        open_arrays(section(train="train.npz"), "multilabel")
    npz(inputs=PADDED.astype(np.float32), labels=MULTI, mask=MULTI)  # numbers: of the labels, as ever
    assert everything(open_arrays(section(train="train.npz"), "multilabel")["train"])["mask"].shape == (6, 3)


@pytest.mark.parametrize(("name", "what"), [("a.csv", "a CSV file"), ("a.txt", "a text file")])
def test_what_a_run_on_arrays_does_not_take(tmp_path, monkeypatch, name, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("a,b\n1,2\n" if name.endswith("csv") else "words\n")
    with pytest.raises(DataError, match=rf"^{name}: is {what}, and this run takes \.npz files that hold inputs, and"):
        ARRAYS.inputs(Arrays(name="arrays", train="a.npz"), "classify", {"shapes": {"inputs": [2]}}, [name])
