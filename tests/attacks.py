"""Commands in processes of their own, of which the time and the memory are measured, on files made to do harm."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS, MEGABYTES = 5.0, 500  # of CPU, and resident: an attack is refused within both
PATHS = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, PATHS))}


class Ended(NamedTuple):
    """How a command has ended: its exit code, what it printed, seconds of CPU, and MB at its peak."""

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float


# In between, since a process counts as its own peak what the one that starts it takes, and a test process is large.
MEASURED = """
import os, resource, sys
code = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)[1])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{code} {used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024}")
"""


def command(*arguments, cwd=None, wall=100.0, program=(sys.executable, "-m", "jaxprop"), **environment):
    """Runs a command; one that has not ended after `wall` seconds is killed, and its code is -9."""
    given = {**os.environ, "JAX_PLATFORMS": "cpu", **ENVIRONMENT, **environment}
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder, "measured")
        whole = [sys.executable, "-I", "-S", "-c", MEASURED, str(measured), *map(str, (*program, *arguments))]
        with subprocess.Popen(
            whole, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=given,
            encoding="utf-8", errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, err = process.communicate(timeout=wall)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return Ended(-9, *process.communicate(), wall, 0.0)
        code, seconds, megabytes = measured.read_text().split()
    return Ended(int(code), out, err, float(seconds), float(megabytes))


def refused(ended, sentence, code=None):
    """Asserts that a command has said a sentence, without a traceback, within the bounds."""
    assert sentence in ended.err, ended
    assert "Traceback" not in ended.err
    assert ended.code in ((1, 2) if code is None else (code,)), ended
    within_bounds(ended)


def within_bounds(ended):
    """Asserts that a command has taken no more time and memory than an attack may cost."""
    assert ended.code >= 0, f"killed: {ended}"
    assert ended.seconds <= SECONDS, ended
    assert ended.megabytes <= MEGABYTES, ended


def clean(text):
    """Asserts that a text, as a command printed it, holds nothing that a terminal would act on."""
    odd = {c for c in text if not c.isprintable() and c != "\n"}
    assert not odd, odd
