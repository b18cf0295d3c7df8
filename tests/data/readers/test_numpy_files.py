"""NumPy files: mapped where they can be, and refused where they hold objects, lie or expand too far."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprop.data.readers import numpy_files as module
from jaxprop.data.readers.numpy_files import kind_of, load_npy, load_npz
from jaxprop.errors import DataError

X = np.linspace(0, 1, 24).reshape(6, 4)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("packed", [False, True])
def test_large_members_are_mapped_where_they_are_not_compressed(order, packed, monkeypatch):
    monkeypatch.setattr(module, "_MAPPED_BYTES", 250)
    (np.savez_compressed if packed else np.savez)(
        "x.npz", y=np.arange(3), inputs=np.asarray(X, order=order), z=np.ones(2)
    )
    held, unused = load_npz("x.npz", ("inputs",), ("y", "w"))
    assert isinstance(held["inputs"].values, np.memmap) != packed
    assert not isinstance(held["y"].values, np.memmap)
    assert np.array_equal(held["inputs"].values, X)
    assert (held["inputs"].name, unused) == ("x.npz:inputs", ["z"])


def test_a_mapped_member_that_is_cut_short_or_lies_about_its_size_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAPPED_BYTES", 100)
    np.savez("x.npz", inputs=X)
    content = Path("x.npz").read_bytes()
    for at, change in ((content.find(b"(6, 4)"), b"(9, 4)"), (content.find(b"<f8"), b"|O8")):
        Path("bad.npz").write_bytes(content[:at] + change + content[at + len(change) :])
        with pytest.raises(DataError, match=r"bad.npz:inputs: "):
            load_npz("bad.npz", ("inputs",))


def test_a_member_that_expands_too_far_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAX_DENSE", 1000)
    np.savez_compressed("x.npz", inputs=np.zeros(10**6))
    with pytest.raises(DataError, match=r"x.npz:inputs: expands to .* write it with np.savez"):
        load_npz("x.npz", ("inputs",))
    np.savez_compressed("x.npz", inputs=np.random.default_rng(0).random(1000))
    assert len(load_npz("x.npz", ("inputs",))[0]["inputs"].values) == 1000


def test_the_kind_of_a_file_is_told_by_its_contents():
    np.savez("x.npz", inputs=X)
    Path("x.npz").rename("x.dat")
    np.save("y.npy", X)
    Path("words.npz").write_text("words")
    assert [kind_of(name) for name in ("x.dat", "y.npy", "words.npz", "gone")] == [".npz", ".npy", None, None]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=6), st.booleans(), st.booleans())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(at, change, mapped, single):
    module_limit = 100 if mapped else 2**26
    before, module._MAPPED_BYTES = module._MAPPED_BYTES, module_limit
    try:
        name = "x.npy" if single else "x.npz"
        np.save(name, X) if single else np.savez(name, inputs=X, labels=np.arange(6))
        content = Path(name).read_bytes()
        at %= len(content)
        Path(name).write_bytes(content[:at] + change + content[at + len(change) :])
        found = load_npy(name) if single else load_npz(name, ("inputs",))[0]["inputs"]
    except DataError:
        pass
    else:
        assert isinstance(found.values, np.ndarray)
        assert found.values.dtype.kind != "O"
    finally:
        module._MAPPED_BYTES = before


def test_an_archive_of_something_else_is_refused():
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("inputs.npy", "words")
    with pytest.raises(DataError, match=r"x.npz:inputs: is damaged"):
        load_npz("x.npz", ("inputs",))
