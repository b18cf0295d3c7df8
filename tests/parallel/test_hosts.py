"""What the processes of a run are, and what they agree on."""

import socket
import subprocess
import sys

import pytest

from jaxprop.parallel.hosts import agree, is_first, process_count, process_index

HEAD = """
import sys, jax
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), coordinator_bind_address=sys.argv[1])
from jaxprop.parallel.hosts import agree, is_first, process_count, process_index
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_all(program, count, timeout=60):
    """Runs a program in several processes; returns (exit code, stdout, stderr) of each."""
    address = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HEAD + program, address, str(count), str(index)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    try:
        ended = [child.communicate(timeout=timeout) for child in started]
    finally:
        for child in started:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(started, ended, strict=True)]


def test_one_process_is_the_first_and_agrees_with_itself():
    assert (process_count(), process_index(), is_first()) == (1, 0, True)
    assert agree("anything", {"a": [1, None]}) == {"a": [1, None]}


@pytest.mark.parametrize("count", [2, 4])
def test_every_process_gets_what_the_first_has_given(count):
    program = """
print(process_count(), process_index(), is_first())
for value in ({"steps": [1, None, "a"]}, 2):
    print(agree("value", value if is_first() else "ignored"))
"""
    for index, (code, out, err) in enumerate(run_all(program, count)):
        assert code == 0, err
        assert out.splitlines() == [f"{count} {index} {index == 0}", "{'steps': [1, None, 'a']}", "2"]


def test_waiting_for_the_first_ends_with_a_sentence():
    program = """
import time
if is_first():
    time.sleep(3)
else:
    try:
        agree("choice", seconds=1)
    except ValueError as error:
        print(error)
"""
    (_, _, _), (code, out, err) = run_all(program, 2)
    assert code == 0, err
    assert out == "process 0 has not decided on 'choice' in 1 s; look at what it printed last\n"
