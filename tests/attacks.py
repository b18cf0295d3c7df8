"""Commands in processes of their own, of which the time and the memory are measured, on files made to do harm."""

import os
import subprocess
import sys
import tempfile
import time
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


def command(*arguments, cwd=None, wall=100.0, program=(sys.executable, "-m", "jaxprop"), **environment):
    """Runs a command; one that has not ended after `wall` seconds is killed, and its code is -9."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd,
            env={**os.environ, "JAX_PLATFORMS": "cpu", **ENVIRONMENT, **environment},
        )  # fmt: skip
        deadline, pid = time.monotonic() + wall, 0
        while pid == 0:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid == 0 and time.monotonic() > deadline:
                process.kill()
                deadline += wall
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Ended(process.returncode, *texts, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


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
