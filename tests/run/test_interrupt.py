"""Signals: the first is remembered, Ctrl-C after it leaves at once, SIGTERM after it does not, and all is put back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import pytest

import jaxprop
from jaxprop.run.interrupt import EXIT_CODES, Interrupts, leaving_at_once
from tests.processes import started

pytestmark = pytest.mark.usefixtures("default_signals")

BOTH = [signal.SIGINT, signal.SIGTERM]


def received(interrupts):
    return interrupts.received is not None


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_remembered(number, capfd):
    with Interrupts() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        wait_for(lambda: interrupts.received is not None)
    assert interrupts.received == number
    how = {signal.SIGINT: "once more", signal.SIGTERM: "Ctrl-C"}[number]
    assert capfd.readouterr().err == f"{number.name}: stopping after this step; {how} leaves at once\n"


def test_a_signal_that_was_handed_on_is_told_by_another_process(capfd):
    with Interrupts(quiet=True) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: interrupts.received is not None)
    assert capfd.readouterr().err == ""


def test_handlers_and_wakeup_are_put_back():
    before = [signal.getsignal(number) for number in BOTH]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with Interrupts():
        assert [signal.getsignal(number) for number in BOTH] != before
    assert [signal.getsignal(number) for number in BOTH] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert "jaxprop-signals" not in [thread.name for thread in threading.enumerate()]


def test_a_handler_that_python_cannot_put_back_becomes_the_default(monkeypatch):
    """As one installed by a library in C, such as jax.distributed's: `signal.signal` returns None for it."""
    handlers, real = dict.fromkeys(EXIT_CODES), signal.signal
    installed = []
    monkeypatch.setattr(
        signal, "signal", lambda number, handler: installed.append((number, handler)) or handlers[number]
    )
    with Interrupts():
        pass
    monkeypatch.setattr(signal, "signal", real)
    assert installed[len(EXIT_CODES) :] == [(number, signal.SIG_DFL) for number in EXIT_CODES]


def test_a_signal_that_the_program_has_a_use_for_is_not_meant():
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_for(lambda: seen)
            time.sleep(0.05)
            assert interrupts.received is None
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_outside_the_main_thread_nothing_is_taken_over():
    before = [signal.getsignal(number) for number in BOTH]
    seen = []

    def body():
        with Interrupts() as interrupts:
            seen.append(([signal.getsignal(number) for number in BOTH], interrupts.received))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_can_be_entered_again():
    for _ in range(2):
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(partial(received, interrupts))
            assert interrupts.received == signal.SIGINT


BUSY = """
    import hashlib, sys
    from jaxprop.run.interrupt import Interrupts
    with Interrupts():
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in one byte code
    sys.exit(9)
"""


@pytest.fixture
def busy():
    """A process whose main thread is inside one call into C, as it is while XLA compiles."""
    root = os.path.dirname(os.path.dirname(jaxprop.__file__))
    with started(
        [sys.executable, "-c", textwrap.dedent(BUSY)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    ) as child:
        assert child.stdout.readline() == "ready\n"
        yield child


@pytest.mark.parametrize("first", BOTH)
def test_ctrl_c_after_a_signal_leaves_at_once_even_while_no_byte_code_runs(busy, first):
    busy.send_signal(first)
    assert busy.stderr.readline().startswith(first.name)
    assert busy.poll() is None
    busy.send_signal(signal.SIGINT)
    assert busy.wait(timeout=20) == EXIT_CODES[signal.SIGINT]


@pytest.mark.parametrize("first", BOTH)
def test_sigterm_after_a_signal_ends_nothing_and_is_told_once(busy, first):
    busy.send_signal(first)
    assert busy.stderr.readline().startswith(first.name)
    for _ in range(3):
        busy.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert busy.poll() is None
    busy.send_signal(signal.SIGINT)
    assert busy.wait(timeout=20) == EXIT_CODES[signal.SIGINT]
    assert busy.stderr.read() == "SIGTERM again: still saving; the process ends by itself\n"


TERMINAL = """
    import os, signal, sys, time
    from jaxprop.run.interrupt import Interrupts
    from jaxprop.sinks.streams import tell
    with Interrupts() as interrupts:
        os.write(1, b"ready")  # by one call: what is still to be written when the terminal goes would be an error
        while interrupts.received is None:
            time.sleep(0.01)
        tell("saving")  # to a terminal that is gone
    open(sys.argv[1], "w").write(interrupts.received.name)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGHUP")
@pytest.mark.parametrize("before", ["SIG_DFL", "SIG_IGN"], ids=["", "nohup"])
def test_a_terminal_that_is_closed_asks_to_leave_unless_that_is_ignored(tmp_path, before):
    master, slave = os.openpty()
    program = textwrap.dedent(TERMINAL)
    begin = f"import fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.{before})\n"
    begin += "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(jaxprop.__file__))}
    with started(
        [sys.executable, "-c", begin + program, str(tmp_path / "left")], stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, env=environment,
    ) as child:  # fmt: skip
        os.close(slave)
        assert b"ready" in os.read(master, 100)
        os.close(master)
        if before == "SIG_IGN":
            time.sleep(0.5)
            assert child.poll() is None
            child.terminate()
        assert child.wait(timeout=20) == 0
    assert (tmp_path / "left").read_text() == {"SIG_DFL": "SIGHUP", "SIG_IGN": "SIGTERM"}[before]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_sigusr1_is_taken_for_what_a_scheduler_sends():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGUSR1)
        end = time.monotonic() + 20
        while interrupts.received is None and time.monotonic() < end:
            time.sleep(0.01)
        assert interrupts.received is signal.SIGUSR1
    assert EXIT_CODES[signal.SIGUSR1] == EXIT_CODES[signal.SIGTERM]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_process_that_threads_keep_is_ended():
    program = """
        import threading, time, jaxprop.run.interrupt
        threading.Thread(target=time.sleep, args=[3600]).start()
        jaxprop.run.interrupt.end_within(0.2, 75)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60).returncode == 75


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_while_packages_load_ends_the_process(number):
    program = f"""
        import os, jaxprop.run.interrupt
        with jaxprop.run.interrupt.leaving_at_once():
            try:
                os.kill(os.getpid(), {int(number)})
            except BaseException:
                pass  # as an extension module may do
            print("still here")
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (EXIT_CODES[number], "")


def test_handlers_are_put_back_once_packages_are_loaded():
    before = [signal.getsignal(number) for number in BOTH]
    with leaving_at_once():
        assert [signal.getsignal(number) for number in BOTH] != before
    assert [signal.getsignal(number) for number in BOTH] == before
