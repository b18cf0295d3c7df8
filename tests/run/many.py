"""Programs that run in several processes over loopback, and what came of them."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from typing import NamedTuple


class Ended(NamedTuple):
    """One process that has ended, and how many seconds after the first one."""

    code: int
    out: str
    err: str
    seconds: float


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def variables(count, index, address, **more):
    """The environment of one process, as a launcher sets it."""
    launched = {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index), "JAX_COORDINATOR_ADDRESS": address}
    # One device a process, and nothing of the test's own: eight would only cost time.
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"} | launched | more


@contextlib.contextmanager
def started(command, count, **more):
    """Processes of one command, none of which is left behind."""
    address = f"127.0.0.1:{free_port()}"
    children = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=variables(count, index, address, **more),
        )
        for index in range(count)
    ]  # fmt: skip
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
            child.stderr.close()


def ended(children, timeout=90):
    """Waits for all; they must not write more than a pipe holds."""
    ends, deadline = {}, time.monotonic() + timeout
    while len(ends) < len(children):
        for child in children:
            if child not in ends and child.poll() is not None:
                ends[child] = time.monotonic()
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
            raise AssertionError([(child.poll(), *child.communicate()) for child in children])
        time.sleep(0.01)
    first = min(ends.values())
    return [
        Ended(child.returncode, child.stdout.read(), child.stderr.read(), ends[child] - first) for child in children
    ]


def program_of(program):
    """The command of a program inside a block of `start_processes`; its errors are told as by the command line."""
    body = "".join(f"    {line}\n" for line in program.strip().splitlines())
    text = f"""
import os, signal, sys, time
import jax
import jaxprop.cli
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.parallel.hosts import agree, decided, is_first, process_count, process_index
from jaxprop.run.processes import start_processes

def work(_):
  with start_processes() as hosts:
{body}
  return locals().get("code", 0)

jaxprop.cli._run = work
sys.exit(jaxprop.cli.main([]))
"""
    return [sys.executable, "-c", text]


def run_program(program, count, timeout=90, **more):
    """Runs a program, as `program_of` takes it, in several processes."""
    with started(program_of(program), count, **more) as children:
        return ended(children, timeout)
