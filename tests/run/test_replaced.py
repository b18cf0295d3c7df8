"""The run that --fresh replaces, and what a process that is killed at any point leaves of it."""

import json
import os

import pytest

from jaxprop.errors import RunFolderError
from jaxprop.run import replaced
from jaxprop.run.replaced import ASIDE, DROPPED, MOVING, Replaced, recover
from tests.checkpoint.test_manifest import write_step

OLD = {"config.yaml": "old", "metrics.jsonl": "old", "checkpoints/3/state": "old", "blackbox/2/box.json": "old"}
NEW = {"config.yaml": "new", "metrics.jsonl": "new", "layers.jsonl": "new", "blackbox/1/box.json": "new"}
KEPT = {"report.html": "kept", "notes.txt": "kept"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, OLD | KEPT)
    return tmp_path


def test_an_old_run_is_dropped(folder):
    old = Replaced(folder)
    old.set_aside()
    assert {path.name for path in folder.iterdir()} == {ASIDE, *KEPT}
    write(folder, NEW)
    old.drop()
    assert read(folder) == NEW | KEPT
    assert not old.bring_back()


def test_an_old_run_comes_back_whole(folder):
    old = Replaced(folder)
    old.set_aside()
    write(folder, NEW)
    assert old.bring_back()
    assert read(folder) == OLD | KEPT
    assert {path.name for path in folder.iterdir()} == {
        "blackbox",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        *KEPT,
    }
    old.drop()
    assert read(folder) == OLD | KEPT


def test_an_empty_folder_has_nothing_to_set_aside(tmp_path):
    old = Replaced(tmp_path)
    old.set_aside()
    assert not old.pending
    assert list(tmp_path.iterdir()) == []
    assert recover(tmp_path) is None


@pytest.mark.parametrize(("step", "gone"), [(0, False), (5, True)])
def test_a_checkpoint_of_the_start_is_not_enough(folder, step, gone):
    old = Replaced(folder)
    old.set_aside()
    write_step(folder / "checkpoints", str(step))
    old.drop_if_saved()
    assert old.pending != gone
    assert (folder / ASIDE).exists() != gone


class Killed(BaseException):
    """As SIGKILL: nothing is cleaned up."""


def killed_at(monkeypatch, function, call):
    """Kills the process at the n-th call of a function of `os`."""
    real, calls = getattr(os, function), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(replaced.os, function, dies)


@pytest.mark.parametrize("call", range(1, 6))
def test_killed_while_moving_out(folder, monkeypatch, call):
    killed_at(monkeypatch, "rename", call)
    with pytest.raises(Killed):
        Replaced(folder).set_aside()
    monkeypatch.undo()
    assert recover(folder) == replaced.BACK
    assert read(folder) == OLD | KEPT


@pytest.mark.parametrize("call", range(1, 6))
def test_killed_while_moving_back(folder, monkeypatch, call):
    old = Replaced(folder)
    old.set_aside()
    write(folder, NEW)
    killed_at(monkeypatch, "rename", call)
    with pytest.raises(Killed):
        old.bring_back()
    monkeypatch.undo()
    assert recover(folder).startswith(replaced.BACK)
    assert read(folder) == OLD | KEPT
    assert not list(folder.glob(".before*"))


def test_killed_while_the_new_run_is_in_place(folder):
    Replaced(folder).set_aside()
    write(folder, NEW)
    assert recover(folder) == f"{replaced.BACK}: the one that was to replace it has no checkpoint"
    assert read(folder) == OLD | KEPT


@pytest.mark.parametrize("stands", ["checkpoint", "completed"])
def test_killed_after_the_new_run_stands(folder, stands):
    Replaced(folder).set_aside()
    write(folder, {"metrics.jsonl": "new"})
    if stands == "checkpoint":
        write_step(folder / "checkpoints", "5")
    else:
        write(folder, {"summary.json": json.dumps({"status": "completed"})})
    assert recover(folder) is None
    assert (folder / "metrics.jsonl").read_text() == "new"
    assert not list(folder.glob(".before*"))


def test_what_is_left_of_a_removal_is_removed(folder):
    write(folder, {f"{DROPPED}/metrics.jsonl": "older"})
    assert recover(folder) is None
    assert read(folder) == OLD | KEPT


@pytest.mark.parametrize("name", [ASIDE, MOVING, DROPPED])
def test_a_link_in_the_place_of_the_old_run_is_refused(folder, tmp_path_factory, name):
    mine = tmp_path_factory.mktemp("mine")
    write(mine, {"metrics.jsonl": "mine"})
    (folder / name).symlink_to(mine)
    with pytest.raises(RunFolderError, match="is a link, and jaxprop writes through none"):
        recover(folder)
    assert read(mine) == {"metrics.jsonl": "mine"}
