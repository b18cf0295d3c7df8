"""Which folder is meant, and what is written whole or not at all."""

import contextlib
import json
import os
import resource
import socket
from pathlib import Path

import pytest

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run import champions
from jaxprop.run.folder import expanded, find_run, read_summary, status_of, write_summary, write_text
from tests.run.champion_acts import fake_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working directory with two runs in `runs/`."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.yaml").touch()
    return tmp_path


def test_the_run_that_is_meant(runs):
    assert find_run(Path("runs/first")) == Path("runs/first")
    assert find_run(Path("first")) == Path("runs/first")
    assert find_run(Path("runs/first/config.yaml")) == Path("runs/first")
    assert find_run(runs / "runs" / "second") == runs / "runs" / "second"


def test_the_version_of_a_champion_that_is_meant(runs):
    champions.adopt(None, "digits", fake_run(runs / "done"))
    folder = Path("runs", "champions", "digits", "versions", "0001")
    assert find_run(Path("champion:digits")) == find_run(Path("champion:digits@1")) == folder
    with pytest.raises(UsageError, match=r"there is no champion 'digit' in runs/champions; did you mean 'digits'\?"):
        find_run(Path("champion:digit"))


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("frst", "frst: there is no such run folder; did you mean 'first'? (runs in runs: first, second)"),
        ("runs/frst", "runs/frst: there is no such run folder; did you mean 'first'? (runs in runs: first, second)"),
        ("runs", "runs is not a run's folder: it has no config.yaml, metrics.jsonl or lr_find.json (runs in runs: f"),
        ("empty", "empty is not a run's folder: it has no config.yaml, metrics.jsonl or lr_find.json (runs in runs: f"),
        ("a.txt", "a.txt: is a file, not a run's folder (runs in runs: first, second)"),
    ],
)
def test_no_run_is_meant(runs, named, sentence):
    Path("empty").mkdir()
    Path("a.txt").touch()
    with pytest.raises(UsageError) as caught:
        find_run(Path(named))
    assert str(caught.value).startswith(sentence)


def test_where_there_are_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no such run folder; 'jaxprop train CONFIG' makes one"):
        find_run(Path("x"))


def test_the_summary(tmp_path):
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, {"step": 3})
    assert read_summary(tmp_path) == {"step": 3}
    (tmp_path / "summary.json").write_text("[1")
    assert read_summary(tmp_path) is None


@contextlib.contextmanager
def limited(size):
    """No file may grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a", "one")
    with limited(2), pytest.raises(RunFolderError, match=r"cannot be written \(File too large\)"):
        write_text(tmp_path / "a", "two and more")
    assert (tmp_path / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "summary.json").symlink_to(tmp_path / "mine")
    with pytest.raises(RunFolderError, match=r"summary.json cannot be written \(it is a link, and jaxprop writes"):
        write_summary(tmp_path, {"step": 3})
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/runs/a") == tmp_path / "runs" / "a"
    assert expanded("runs/~a") == Path("runs/~a")
    with pytest.raises(UsageError, match="~nobody-of-that-name/a: there is no home folder of that name"):
        expanded("~nobody-of-that-name/a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    assert find_run(Path("~/a")) == tmp_path / "a"


def test_a_run_goes_before_a_folder_of_its_name(runs):
    Path("first").mkdir()  # such as the data that it was trained on
    assert find_run(Path("first")) == Path("runs/first")
    Path("first", "config.yaml").touch()
    assert find_run(Path("first")) == Path("first")


@pytest.mark.parametrize(
    ("summary", "owner", "status"),
    [
        ({"status": "diverged"}, None, "diverged"),
        ({"status": 3}, None, "ended"),
        ({}, None, "ended"),
        (None, None, "unfinished"),
        (None, "noise", "unfinished"),
        (None, {"pid": os.getpid(), "host": socket.gethostname()}, "running"),
        (None, {"pid": 2**22 + 1, "host": socket.gethostname()}, "unfinished"),
        (None, {"pid": 1, "host": "elsewhere"}, "running"),
    ],
)
def test_how_a_run_stands(tmp_path, summary, owner, status):
    if owner is not None:
        (tmp_path / ".lock").write_text(json.dumps(owner))
    assert status_of(tmp_path, summary) == status
