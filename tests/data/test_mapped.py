"""A file that changes under its map is noticed before what is read of it is used."""

import os

import numpy as np
import pytest

from jaxprop import data
from jaxprop.config.build import build
from jaxprop.data.mapped import unchanged
from jaxprop.errors import DataError


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4096, dtype=np.float32).reshape(1024, 4))
    return tmp_path / "a.npy"


CHANGES = {
    "cut short": lambda path: os.truncate(path, 200),
    "longer": lambda path: os.truncate(path, 2**20),
    "written to": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(file, change):
    check = unchanged([np.load(file, mmap_mode="r"), np.zeros(3), None])
    check()
    os.utime(file, ns=(0, 0))  # as if it had been written long ago
    check = unchanged([np.load(file, mmap_mode="r")])
    CHANGES[change](file)
    with pytest.raises(DataError, match=r"a.npy has changed while it was read \(16,512 bytes, now .*\); write"):
        check()


def test_a_file_that_is_replaced_or_removed_leaves_the_map_as_it_was(file):
    mapped = np.load(file, mmap_mode="r")
    check = unchanged([mapped])
    np.save(file.with_name("b.npy"), np.zeros(3))
    os.replace(file.with_name("b.npy"), file)
    check()
    file.unlink()
    check()
    assert mapped[-1, -1] == 4095


@pytest.mark.parametrize("change", ["cut short", "written to"])
def test_a_source_says_so_in_place_of_a_signal(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    np.save("x.npy", draw.normal(size=(4096, 64)).astype(np.float32))
    np.save("y.npy", draw.integers(0, 2, 4096))
    section = build({
        "task": {"name": "classify"}, "model": {"name": "mlp"}, "optimizer": {"name": "sgd", "lr": 0.1},
        "run": {"steps": 1}, "data": {"name": "arrays", "train_inputs": "x.npy", "train_labels": "y.npy"},
    }).data  # fmt: skip
    os.utime("x.npy", ns=(0, 0))
    train = data.open_sources(section, "classify")["train"]
    assert len(train.take(np.arange(8))["inputs"]) == 8
    CHANGES[change](tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"x.npy has changed while it was read"):
        train.take(np.arange(4000, 4096))
