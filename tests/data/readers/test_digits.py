"""The digits: scikit-learn's own images, split in proportion, without importing scikit-learn."""

import subprocess
import sys

import numpy as np
import pytest

from jaxprop.data.readers import digits
from jaxprop.data.readers.digits import digits_inputs, load_digits, open_digits, stratified_split
from jaxprop.errors import DataError


def everything(source):
    return source.take(np.arange(source.length))


def test_contents_are_what_scikit_learn_loads():
    from sklearn.datasets import load_digits as reference

    pixels, labels = load_digits()
    assert np.array_equal(pixels, reference().data)
    assert np.array_equal(labels, reference().target)


def test_scikit_learn_itself_is_not_imported():
    code = "import sys; from jaxprop.data.readers.digits import open_digits; open_digits()"
    code += "; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_its_file_scikit_learn_is_asked(monkeypatch, tmp_path):
    expected = load_digits()

    class ElsewhereSpec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(digits, "find_spec", lambda name: ElsewhereSpec)
    for got, want in zip(load_digits(), expected, strict=True):
        assert np.array_equal(got, want)
        assert got.dtype == want.dtype


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        open_digits()


def test_batches_keep_the_contract():
    sources = open_digits()
    assert {split: source.length for split, source in sources.items()} == {"train": 1437, "test": 360}
    for source in sources.values():
        batch = everything(source)
        assert batch["inputs"].dtype == np.float32
        assert batch["inputs"].shape == (source.length, 8, 8, 1)
        assert (batch["inputs"].min(), batch["inputs"].max()) == (0.0, 1.0)
        assert batch["labels"].dtype == np.int32
        assert source.info == {"classes": 10}
        assert set(batch["labels"].tolist()) == set(range(10))
    assert sources["train"].fingerprint != sources["test"].fingerprint


def test_the_split_takes_every_image_once():
    sources = open_digits()
    pixels, _ = load_digits()
    rows = np.concatenate([everything(source)["inputs"].reshape(-1, 64) * 16 for source in sources.values()])
    assert sorted(map(bytes, rows)) == sorted(map(bytes, pixels.astype(np.float32)))


def test_the_split_has_scikit_learns_class_counts():
    from sklearn.model_selection import train_test_split

    labels = load_digits()[1]
    _, reference = train_test_split(labels, test_size=0.2, stratify=labels, random_state=0)
    test = everything(open_digits()["test"])["labels"]
    assert np.abs(np.bincount(test) - np.bincount(reference)).max() <= 1  # equal remainders may be broken otherwise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_any_split_is_disjoint_complete_and_in_proportion(seed, fraction):
    labels = np.repeat([0, 1, 5], [7, 40, 100])
    train, test = stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(labels.size))
    assert test.size == np.ceil(labels.size * fraction)
    for label, count in [(0, 7), (1, 40), (5, 100)]:
        assert abs((labels[test] == label).sum() - count * fraction) < 1


def test_another_seed_gives_another_split():
    labels = load_digits()[1]
    assert not np.array_equal(stratified_split(labels, 0.2, 0)[1], stratified_split(labels, 0.2, 1)[1])


# -- images to predict ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1, 64), (-1, 8, 8), (-1, 8, 8, 1)])
def test_images_to_predict_are_prepared_as_the_training_data_are(tmp_path, shape):
    pixels, _ = load_digits()
    np.save(tmp_path / "a.npy", pixels[:3].reshape(shape))
    np.savez(tmp_path / "b.npz", inputs=pixels[3:5].reshape(shape))
    source = digits_inputs([str(tmp_path / "a.npy"), str(tmp_path / "b.npz")])
    assert source.info["names"][2:4] == [f"{tmp_path / 'a.npy'}:2", f"{tmp_path / 'b.npz'}:0"]
    expected = (pixels[:5].astype(np.float32) / 16).reshape(-1, 8, 8, 1)
    assert np.array_equal(everything(source)["inputs"], expected)


def test_images_of_other_ink_are_told(tmp_path):
    pixels, _ = load_digits()
    held = pixels[:5].astype(float)
    held[1, 3], held[3, 0], held[4] = np.nan, 17, 0
    np.save(tmp_path / "a.npy", held)
    source = digits_inputs([str(tmp_path / "a.npy"), str(tmp_path / "gone.npy")])
    assert source.info["names"] == [f"{tmp_path / 'a.npy'}:{i}" for i in (0, 2, 4)]
    assert [(one.before, one.name.rpartition("/")[2]) for one in source.info["bad"]] == [
        (1, "a.npy:1"), (2, "a.npy:3"), (3, "gone.npy"),
    ]  # fmt: skip
    assert source.info["bad"][1].why == "expected ink from 0 to 16, got 0 to 17"
    assert np.array_equal(everything(source)["inputs"].reshape(3, 64), held[[0, 2, 4]].astype(np.float32) / 16)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((2, 9, 9)), r"expected images of shape \[N, 8, 8\] or \[N, 64\], got float64\[2, 9, 9\]"),
        (
            np.full((2, 64), 0.5),
            r"expected ink from 0 to 16, as sklearn.datasets.load_digits\(\) gives it, got 0.5 to 0.5",
        ),
        (np.full((2, 64), 255), "expected ink from 0 to 16"),
        (np.full((2, 64), np.nan), "expected ink from 0 to 16"),
        (np.zeros((0, 64)), "got no images"),
        (np.array([["a"] * 64]), "expected images of shape"),
    ],
)
def test_images_that_are_no_digits(tmp_path, values, sentence):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=sentence):
        digits_inputs([str(tmp_path / "a.npy")])


def test_files_that_hold_no_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.ones((2, 64)))
    np.save(tmp_path / "b.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "c.npy").write_text("text")
    for name, sentence in {
        "a.npz": "has no array 'inputs'",
        "b.npy": "cannot be read",
        "c.npy": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=sentence):
            digits_inputs([str(tmp_path / name)])
    with pytest.raises(DataError, match=r"nothing.npy: cannot be read as a .npy or .npz file"):
        digits_inputs([str(tmp_path / "nothing.npy")])
    with pytest.raises(DataError, match="cannot be read from standard input"):
        digits_inputs(["-"])
