import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from jaxprop.checkpoint import background
from jaxprop.checkpoint.background import Background, StuckError


def started(*arguments):
    save = Background(*arguments)
    save.start()
    return save


def test_work_is_done_in_a_thread_that_does_not_keep_the_process(tmp_path):
    seen = []

    def work(copied):
        copied()
        inner = threading.Thread(target=lambda: None)
        seen.append((threading.current_thread().daemon, inner.daemon))

    save = started(3, work, tmp_path)
    save.wait_for_copy()
    save.result()
    assert seen == [(True, True)]  # threads that Orbax starts there inherit it
    assert save.has_ended
    assert not save.has_failed


def test_an_error_is_raised_where_it_is_waited_for(tmp_path):
    def work(copied):
        raise ZeroDivisionError

    save = started(3, work, tmp_path)
    save.wait_for_copy()  # not here: the next save, or the end, tells it
    while not save.has_failed:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        save.result()


def test_what_gets_on_is_waited_for_and_what_does_not_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0.4)
    left = []
    monkeypatch.setattr(background, "_leave_all_the_same", lambda: left.append(True))
    stop = threading.Event()

    def work(copied):
        copied()
        with open(tmp_path / "file", "wb", buffering=0) as file:
            for _ in range(12):
                file.write(b"1")
                time.sleep(0.1)
        stop.wait(20)

    save, began = started(3, work, tmp_path), time.monotonic()
    with pytest.raises(
        StuckError, match=r"step 3 could not be written to .*: nothing has been written for 0 s, so its"
    ):
        save.result()
    stop.set()
    assert time.monotonic() - began > 1.2
    assert left == [True]


STUCK = """
    import sys, threading, time
    from pathlib import Path
    from jaxprop.checkpoint import background

    background.PATIENCE, background._GRACE = 0.5, 0.5
    save = background.Background(3, lambda copied: time.sleep(600), Path(sys.argv[1]))
    save.start()
    threading.Thread(target=time.sleep, args=(600,)).start()  # of a library, which Python would wait for
    save.result()
"""
UNCLOSED = """
    import sys, time
    from pathlib import Path
    from jaxprop.checkpoint import background

    def work(copied):
        copied()
        time.sleep(0.5)
        {act}

    save = background.Background(3, work, Path(sys.argv[1]))
    save.start()
    save.wait_for_copy()
    print("left", flush=True)
"""


def run(text, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), str(folder)], capture_output=True, text=True, timeout=60
    )


def test_a_process_with_a_stuck_save_ends_all_the_same(tmp_path):
    ended = run(STUCK, tmp_path)
    assert ended.returncode == 1
    assert "nothing has been written for 0 s" in ended.stderr


@pytest.mark.parametrize(
    ("act", "code", "says"),
    [
        ("pass", 0, ""),
        ("raise OSError('disk full')", 1, "error: the checkpoint of step 3 was not written: disk full\n"),
    ],
)
def test_a_process_that_never_asked_ends_with_the_error(tmp_path, act, code, says):
    ended = run(UNCLOSED.format(act=act), tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "left\n", says)


def test_work_that_never_began_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "_LOOK", 0.1)
    with pytest.raises(OSError, match="it was interrupted before it began"):
        Background(3, lambda copied: None, tmp_path).result()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have a priority of their own on Linux alone")
def test_a_save_gives_way_to_the_threads_that_train(tmp_path):
    found = []

    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work(copied):
        found.append(priority())
        inner = threading.Thread(target=lambda: found.append(priority()))
        inner.start()
        inner.join()

    before = priority()
    save = Background(3, work, tmp_path)
    save.start()
    save.result()
    assert found == [min(before + 5, 19)] * 2
    assert priority() == before
