"""A process of `jaxprop sweep --processes`: reads what to train as a line of JSON, and writes what has become of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Trains the runs that standard input names, and writes a line of JSON for each that has ended, and to be told."""
    share_of_cores(os.environ.get("JAXPROP_PART", "0/1"))
    work = json.loads(sys.stdin.readline())
    # Whatever else writes to standard output must not come between the lines of this protocol.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _train(work, out)


def share_of_cores(part: str) -> None:
    """Keeps this process on its share of the cores that it may run on, where there are enough.

    Args:
      part: number of the process and number of processes, such as `0/2`.
    """
    index, count = map(int, part.split("/"))
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= count > 1:
            os.sched_setaffinity(0, cores[index::count])


def _end_with_parent() -> None:
    """Whoever started this process and is gone, even killed, has closed its end of standard input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _train(work: dict[str, Any], out: TextIO) -> None:
    # Imported late, so that jax sees the cores and devices that this process has.
    from jaxprop.config.load import load
    from jaxprop.run.interrupt import Interrupts
    from jaxprop.sinks.jsonl import encode
    from jaxprop.tools.sweep.plan import Trial, overrides
    from jaxprop.tools.sweep.programs import groups
    from jaxprop.tools.sweep.sweep import ends_of
    from jaxprop.tools.sweep.training import Terms

    def say(**line: Any) -> None:
        out.write(encode(line) + "\n")
        out.flush()

    with Interrupts() as interrupts:
        until = None if work["seconds"] is None else time.monotonic() + work["seconds"]
        terms = Terms(
            Path(work["folder"]), work["fresh"], lambda line: say(tell=line), interrupts, until
        )  # fmt: skip
        trials = []
        for setting, seed, folder in work["runs"]:
            words = [*work["fixed"], *overrides(setting), f"run.seed={seed}"]
            trials.append(Trial(setting, seed, load(work["config"], words, work["code"]).config, folder))
        for group in groups(trials):
            for one in ends_of(group, terms, work["lanes"], terms.tell):
                say(ended=one._asdict())


if __name__ == "__main__":
    main()
