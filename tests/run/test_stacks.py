"""Stacks: read of every thread, and told by whose code a thread hangs in."""

import sysconfig
import threading
import time
from pathlib import Path

import jax
import numpy as np

from jaxprop.run import stacks
from jaxprop.run.stacks import Frame

OURS = Frame(str(Path(stacks.__file__).parents[1] / "data" / "prefetch.py"), 90, "run", "jaxprop.data.prefetch")
SCRIPT = Frame("/home/me/train.py", 3, "<module>", "__main__")
READER = Frame("/home/me/my_reader.py", 12, "rows", "my_reader")
STDLIB = Frame(threading.__file__, 355, "wait", "threading")
NUMPY = Frame(np.__file__, 9, "load", "numpy")


def test_every_thread_is_read_by_its_name():
    hold = threading.Event()
    threads = [threading.Thread(target=hold.wait, name=name, daemon=True) for name in ("twin", "twin", "b")]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    found = stacks.of_threads()
    hold.set()
    assert len([name for name in found if name.startswith("twin")]) == 2
    assert found["b"][-1].function == "wait"
    assert found["b"][0].module == "threading"
    assert found[stacks.main_thread()][-1] == Frame(
        stacks.__file__, found[stacks.main_thread()][-1].line, "of_threads", "jaxprop.run.stacks"
    )


def test_as_text_a_thread_may_be_shortened():
    threads = {"a": [OURS, READER], "b": [OURS]}
    assert stacks.text(threads).count("\n") == 4
    assert stacks.text(threads, 1) == f"a:\n  {READER}\nb:\n  {OURS}"


def test_whose_code_hangs():
    assert sysconfig.get_paths()["stdlib"] in STDLIB.file
    assert stacks.culprit([STDLIB, OURS, READER, NUMPY, STDLIB]) == READER
    assert stacks.culprit([SCRIPT, OURS, NUMPY, STDLIB]) == NUMPY  # the script has called us, and not the other way
    assert stacks.culprit([SCRIPT, OURS, STDLIB]) == OURS
    assert stacks.culprit([STDLIB]) == STDLIB
    assert stacks.culprit([]) is None


def test_a_debugger_is_seen():
    assert not stacks.is_debugged(stacks.of_threads())
    assert stacks.is_debugged({"a": [Frame("x.py", 1, "interaction", "pdb")]})
    assert stacks.is_debugged({"a": [Frame("x.py", 1, "run", "pydevd.threads")]})


def compile_deep(depth):
    def slow(x):
        for _ in range(depth):
            x = jax.numpy.sin(x) @ x
        return x

    jax.jit(slow)(jax.numpy.ones((4, 4)))


def test_compiling_is_seen_where_jax_compiles():
    done, seen = threading.Event(), threading.Event()

    def watch():
        while not (done.is_set() or seen.is_set()):
            if stacks.is_compiling(stacks.of_threads()[stacks.main_thread()]):
                seen.set()
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    begin, depth = time.monotonic(), 100
    while not seen.is_set() and time.monotonic() - begin < 60:  # a busy machine may not let the thread look in time
        compile_deep(depth)
        depth += 50
    done.set()
    thread.join()
    assert seen.is_set()
    assert not stacks.is_compiling(stacks.of_threads()[stacks.main_thread()])
