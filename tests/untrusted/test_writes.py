"""Nothing is written through a link, over anything but a regular file, or by halves."""

import contextlib
import errno
import os

import pytest

from jaxprop.untrusted.writes import (
    create_beside,
    make_folder,
    open_to_append,
    open_to_lock,
    sync,
    write_whole,
)

WRITERS = {
    "whole": lambda path: write_whole(path, "new"),
    "append": lambda path: open_to_append(path).close(),
    "lock": lambda path: os.close(open_to_lock(path)),
    "folder": make_folder,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("exists", [True, False])
def test_no_link_is_followed(tmp_path, writer, exists):
    mine = tmp_path / "mine"
    if exists:
        mine.write_text("mine")
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(OSError, match="it is a link, and jaxprop writes through none; remove it"):
        WRITERS[writer](tmp_path / "link")
    assert mine.exists() == exists
    assert not exists or mine.read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "folder"])
def test_a_link_laid_at_the_last_moment_is_not_followed(tmp_path, writer, monkeypatch):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for module in ("jaxprop.untrusted.writes", "jaxprop.untrusted.files"):
        monkeypatch.setattr(f"{module}.refuse", lambda *_: None)
    if writer == "whole":
        WRITERS[writer](tmp_path / "link")  # takes the link's place
        assert (tmp_path / "link").read_text() == "new"
    else:
        with pytest.raises(OSError, match=r"symbolic links|File exists|it is not a regular"):
            WRITERS[writer](tmp_path / "link")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, writer):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"it is not a regular file|it is a file"):
        WRITERS[writer](tmp_path / "pipe")


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "folder"])
def test_a_folder_in_the_way(tmp_path, writer):
    with pytest.raises(OSError, match="Is a directory"):
        WRITERS[writer](tmp_path)


def test_temporary_names_cannot_be_foreseen(tmp_path):
    made = [create_beside(tmp_path / "a") for _ in range(3)]
    for _, file in made:
        file.close()
    assert len({path.name for path, _ in made}) == 3


def test_a_file_keeps_the_mode_that_the_umask_gives(tmp_path):
    write_whole(tmp_path / "ours", "one")
    (tmp_path / "plain").write_text("one")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_appending_goes_on(tmp_path):
    for text in ("one\n", "two\n"):
        with open_to_append(tmp_path / "a") as file:
            file.write(text)
    assert (tmp_path / "a").read_text() == "one\ntwo\n"


def test_a_folder_is_made_with_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_durable_file_and_its_name_are_on_the_disk_before_it_is_done(tmp_path, monkeypatch):
    acts = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: acts.append(os.path.realpath(f"/proc/self/fd/{descriptor}")))
    write_whole(tmp_path / "a", "one")
    assert acts == []
    write_whole(tmp_path / "a", "two", durable=True)
    partial, folder = acts
    assert partial.startswith(str(tmp_path / ".a."))
    assert folder == str(tmp_path)
    assert (tmp_path / "a").read_text() == "two"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_without_the_call_is_no_error_and_a_failed_disk_is(tmp_path, monkeypatch, code):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with contextlib.nullcontext() if code == errno.EINVAL else pytest.raises(OSError, match=r"put"):
        sync(tmp_path)
