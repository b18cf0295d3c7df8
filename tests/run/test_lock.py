import errno
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys

import pytest

from jaxprop.errors import RunFolderError
from jaxprop.run import lock
from jaxprop.run.lock import hold
from tests.processes import started

HOLDER = """
import sys
from jaxprop.run.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, default_signals):
    """Another process that holds `tmp_path` until its stdin closes."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_another_process_is_named(tmp_path, holder):
    says = (
        f"the run folder {tmp_path} is in use by process {holder.pid} on {socket.gethostname()}; "
        "wait for it to end, or choose another with --run DIR"
    )
    with pytest.raises(RunFolderError, match=f"^{re.escape(says)}$"), hold(tmp_path):
        pass


def test_what_is_held_and_what_to_do_are_told_in_the_words_of_who_asks(tmp_path, holder):
    says = f"the kitchen {tmp_path} is in use by process {holder.pid} on .*; wait for it to end, or eat out"
    with pytest.raises(RunFolderError, match=f"^{says}$"), hold(tmp_path, lock.Words("the kitchen", "eat out")):
        pass


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_dead_process_holds_nothing(tmp_path, holder, end):
    getattr(holder, end)()
    holder.wait()
    with hold(tmp_path):
        pass


def test_the_folder_is_made_and_can_be_held_again_after_an_error(tmp_path):
    folder = tmp_path / "runs" / "new"
    with pytest.raises(ZeroDivisionError), hold(folder):
        raise ZeroDivisionError
    with hold(folder), pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} on "), hold(folder):
        pass


def test_two_folders_do_not_disturb_each_other(tmp_path):
    with hold(tmp_path / "a"), hold(tmp_path / "b"):
        pass


@pytest.mark.parametrize("where", ["file", "file/run"])
def test_a_file_in_the_way(tmp_path, where):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"cannot be written to \(.*\); choose another with --run DIR"),
        hold(tmp_path / where),
    ):
        pass


def test_a_folder_that_cannot_be_written_to_is_no_matter_of_another_process(tmp_path):
    (tmp_path / "file").write_text("")
    words = lock.Words("the kitchen", "eat out", "buy a stove")
    with (
        pytest.raises(RunFolderError, match=r"cannot be written to \(.*\); buy a stove$"),
        hold(tmp_path / "file", words),
    ):
        pass


# -- file systems without locks -------------------------------------------------------------------


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO", "EINVAL", "EPERM"])
def no_locks(request, monkeypatch):
    """What file systems of networks and clusters say of a lock; only that it would block says that it is held."""
    code = getattr(errno, request.param)

    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "_lock", refuse)


def finished_pid():
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


def test_without_locks_a_claim_keeps_others_out_and_goes_with_the_owner(tmp_path, no_locks):
    with hold(tmp_path):
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .*remove .*\.claim\)$"), hold(tmp_path):
            pass
        assert len(list(tmp_path.glob("*.claim"))) == 1
    with hold(tmp_path):
        pass


@pytest.mark.parametrize(
    ("pid", "host", "free"),
    [
        (finished_pid, socket.gethostname(), True),
        (os.getppid, socket.gethostname(), False),
        (finished_pid, "another-host", False),
    ],
)
def test_without_locks_the_claim_of_a_dead_process_of_this_host_is_void(tmp_path, no_locks, pid, host, free):
    with hold(tmp_path):
        (claim,) = tmp_path.glob("*.claim")
    claim.write_text(json.dumps({"pid": pid(), "host": host}))
    if free:
        with hold(tmp_path):
            pass
    else:
        with pytest.raises(RunFolderError, match="in use by process"), hold(tmp_path):
            pass


def test_a_claim_that_cannot_be_made_is_one_sentence(tmp_path, no_locks, monkeypatch):
    real = os.open

    def refuse(path, flags, *mode):
        if str(path).endswith(".claim"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(lock.os, "open", refuse)
    with (
        pytest.raises(RunFolderError, match=r"cannot be written to \(Read-only file system: .*claim\)"),
        hold(tmp_path),
    ):
        pass


def test_a_disk_that_is_full_does_not_keep_the_lock_from_being_held(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "write", full)
    with hold(tmp_path), pytest.raises(RunFolderError, match="in use by process unknown"), hold(tmp_path):
        pass


@pytest.mark.parametrize("name", [".lock", ".lock.claim"])
def test_no_link_is_followed(tmp_path, monkeypatch, name):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    if name == ".lock.claim":
        monkeypatch.setattr(lock, "_lock", lambda _: os.truncate("/nowhere/at/all", 0))
    with pytest.raises(RunFolderError), hold(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_made_for_a_run_that_never_begins_goes_with_it(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with hold(tmp_path / "mine"):
        pass
    with hold(tmp_path / "begun"):
        (tmp_path / "begun" / "config.yaml").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "mine"]


def test_a_lock_whose_file_was_removed_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda descriptor: (tmp_path / ".lock").unlink())
    with pytest.raises(RunFolderError, match="is in use"), hold(tmp_path):
        pass
