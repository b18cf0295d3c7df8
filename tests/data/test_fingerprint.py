"""Fingerprints: whatever changes the data changes them; where they sample, they say so."""

import numpy as np
import pytest

from jaxprop.data import fingerprint as module
from jaxprop.data.fingerprint import fingerprint

BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


def edited(array, index, value):
    out = array.copy(order="K")
    out[index] = value
    return out


def test_equal_contents_have_equal_fingerprints():
    assert fingerprint("a", BASE) == fingerprint("a", BASE.copy())


@pytest.mark.parametrize(
    "other",
    [
        ("b", BASE),
        ("a", BASE.astype(np.float64)),
        ("a", BASE.view(np.int32)),
        ("a", BASE.reshape(4, 3)),
        ("a", np.asfortranarray(BASE)),
        ("a", edited(BASE, (2, 3), 11.5)),
        ("a", BASE[:2]),
        ("a", BASE, BASE),
        ("aa", BASE),
    ],
    ids=["name", "dtype", "view", "shape", "order", "one value", "fewer", "another array", "longer name"],
)
def test_a_change_shows(other):
    assert fingerprint("a", BASE) != fingerprint(*other)


def test_neighbouring_strings_do_not_run_together():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_mapped_files_are_sampled_from_the_first_byte_to_the_last(tmp_path, monkeypatch, order):
    monkeypatch.setattr(module, "_FULL_HASH_BYTES", 1000)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(module, "_SAMPLED_BLOCKS", 4)
    content = np.zeros((100, 50), np.uint8, order=order)

    def mapped(array):
        path = tmp_path / "x.npy"
        np.save(path, array)
        return fingerprint(np.load(path, mmap_mode="r"))

    base = mapped(content)
    assert base == mapped(content.copy(order=order))
    assert base != mapped(edited(content, (0, 0), 1))
    assert base != mapped(edited(content, (99, 49), 1))
    assert base != mapped(content[:, :49])
    between = edited(content, (50, 50 // 4), 1)
    assert base == mapped(between), "this byte lies between the samples"
    assert fingerprint(content) != fingerprint(between), "but arrays in memory are hashed whole"


def test_small_mapped_files_are_hashed_whole_and_like_arrays_in_memory(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, BASE)
    assert fingerprint(np.load(path, mmap_mode="r")) == fingerprint(BASE)
