"""One library in a process of its own: `python -m peers.worker SIDE WORKLOAD.json WEIGHTS.npz PRECISION`.

It answers each line that it reads with a line of JSON: what it found at its start, then for each `seconds calls` the
seconds of one step.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from peers.side import Trainer, Unsupported
from peers.workloads import Workload

FIRST = 3  # steps whose losses are compared

# side -> its module, the function that makes its trainer, and the package that it needs
SIDES = {
    "jaxprop": ("with_jaxprop", "start", "jaxprop"),
    "by hand": ("with_jaxprop", "start_by_hand", "jax"),
    "flax": ("with_flax", "start", "flax"),
    "equinox": ("with_equinox", "start", "equinox"),
    "keras": ("with_keras", "start", "keras"),
    "torch": ("with_torch", "start", "torch"),
    "torch.compile": ("with_torch", "start_compiled", "torch"),
}


def main(side: str, workload_file: str, weights_file: str, precision: str) -> None:
    """Answers until its input ends."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a library may print
        try:
            trainer, first = _started(side, workload_file, weights_file, precision)
        except Exception as error:
            _say(answers, {"error": explain(error, side)})
            return
        _say(answers, first)
        for line in sys.stdin:
            seconds, calls = line.split()
            try:
                _say(answers, _measured(trainer, float(seconds), int(calls)))
            except Exception as error:
                _say(answers, {"error": explain(error, side)})
                return


def _started(side: str, workload_file: str, weights_file: str, precision: str) -> tuple[Trainer, dict[str, Any]]:
    name, function, _ = SIDES[side]
    workload = Workload(**json.loads(Path(workload_file).read_text(encoding="utf-8")))
    with np.load(weights_file) as held:
        weights = {key: held[key] for key in held.files}
    start = time.perf_counter()
    trainer = getattr(importlib.import_module(f"peers.{name}"), function)(workload, weights, precision)
    losses = [trainer.run(1) for _ in range(FIRST)]
    facts = {"losses": losses, "versions": trainer.versions, "settings": trainer.settings}
    return trainer, facts | {"start": time.perf_counter() - start}


def _measured(trainer: Trainer, seconds: float, calls: int) -> dict[str, float]:
    """Seconds of one step, of so many, or of as many as take so long if `calls` is 0."""
    if not calls:
        taken = []
        for _ in range(3):
            begin = time.perf_counter()
            trainer.run(1)
            taken.append(time.perf_counter() - begin)
        calls = max(1, round(seconds / min(taken)))
    begin, busy = time.perf_counter(), time.process_time()
    trainer.run(calls)
    return {
        "seconds": (time.perf_counter() - begin) / calls, "cpu": (time.process_time() - busy) / calls, "calls": calls
    }  # fmt: skip


def explain(error: Exception, side: str) -> str:
    """One sentence about why a side does not run."""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, Unsupported):
        return text
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install {error.name}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return f"the batch does not fit into the memory of the device: {text}"
    return f"{side} failed with {type(error).__name__}: {text}"


def _say(answers: Any, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # a library's threads keep nobody waiting
