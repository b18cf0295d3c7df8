"""`bench/session.py`: rows are written as they come."""

import jax
import pytest

from jaxprop.bench import document, session
from jaxprop.bench.document import Row
from jaxprop.errors import UsageError


@pytest.fixture
def begun(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "EVERY", 0.0)
    return session.Session("device", {"device": "0"}, jax.devices()[:1], tmp_path / "a.json", lambda _: None)


def test_every_row_is_in_the_file_at_once(begun, tmp_path):
    begun.add(Row(section="a", name="b", value=1.0))
    assert [row.value for row in document.read(tmp_path / "a.json").rows] == [1.0]
    begun.add(Row(section="a", name="b", value=2.0))
    begun.add(Row(section="a", name="c"))
    found = document.read(tmp_path / "a.json")
    assert [(row.name, row.value) for row in found.rows] == [("b", 2.0), ("c", None)]
    assert not found.complete


def test_the_end_and_the_notes(begun, tmp_path):
    for sentence in ("one", "", "one"):
        begun.note(sentence)
    assert begun.close(complete=True) == document.read(tmp_path / "a.json")
    assert document.read(tmp_path / "a.json").notes == ["one"]
    assert document.read(tmp_path / "a.json").complete


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        session.Session("device", {}, jax.devices()[:1], tmp_path / "file" / "a.json", lambda _: None)
