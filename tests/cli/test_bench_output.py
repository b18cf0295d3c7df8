"""`cli/bench_output.py`: names of files, and what is shown while it is measured."""

from pathlib import Path

import pytest

from jaxprop.bench.document import Document, Environment, Row
from jaxprop.cli.bench_output import Screen, print_document, results_path
from jaxprop.errors import UsageError
from tests.bench.documents import save

HERE = Environment(
    devices=[{"kind": "Chip", "platform": "cpu", "counts_as": "half a card"}], host={"cpu": "any", "affinity": "0,1"},
    versions={"jax": "1"}, flags={},
)  # fmt: skip
ROW = Row(section="dispatch", name="call", unit="us", value=2.0, low=1.9, high=2.1)
FOUND = Document(command="device", started="now", environment=HERE, rows=[ROW], notes=["a sentence"])


def test_the_file_that_was_asked_for_or_a_new_one():
    assert results_path("device", Path("a.json")) == Path("a.json")
    assert results_path("device", Path("a.json"), force=True) == Path("a.json")
    new = results_path("device", None)
    assert (new.parent, new.name[:7], new.suffix) == (Path("bench"), "device-", ".json")


def test_results_are_replaced_only_with_force(tmp_path):
    path = save(FOUND, tmp_path / "a.json")
    with pytest.raises(UsageError, match="holds results already; add --force to replace them, or name another file"):
        results_path("device", path)
    assert results_path("device", path, force=True) == path
    save(FOUND.model_copy(update={"rows": []}), path)  # of a command that failed before its first figure
    assert results_path("device", path) == path
    path.write_text("")  # as mktemp makes it
    assert results_path("device", path) == path


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_of_results_is_never_replaced(tmp_path, force):
    (tmp_path / "notes.md").write_text("precious")
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(UsageError, match="exists, and is no file of results that could be replaced; name another"):
            results_path("device", path, force)


def test_where_it_was_measured_comes_first(capsys):
    print_document(FOUND)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device 0: Chip (cpu), half a card"
    assert lines[1] == "host: any, cores 0,1; jax 1"
    assert lines[-1] == "note: a sentence"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal(monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with Screen(quiet=False) as screen:
        screen.say("compiling")
        screen.show(FOUND)
    told = capsys.readouterr()
    assert told.out == ""
    assert ("1 figures" in told.err) == terminal
