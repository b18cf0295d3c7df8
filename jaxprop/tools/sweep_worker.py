"""A process of `jaxprop sweep --processes`: reads what to train as a line of JSON, and writes what has become of it.

It lies outside the room `sweep`, whose modules load jax: before, the process takes its share of the cores, and a folder
of compiled programs of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from jaxprop.run.compile_cache import move_cache


def main() -> None:
    """Trains the runs that standard input names, and writes a line of JSON for each that has ended, and to be told."""
    share_of_cores(os.environ.get("JAXPROP_PART", "0/1"))
    move_cache(os.environ, lambda line: print(line, file=sys.stderr))
    # Whatever the user's locale is.
    asked = os.fdopen(os.dup(0), encoding="utf-8", errors="surrogateescape")
    work = json.loads(asked.readline())
    # Whatever else writes to standard output must not come between the lines of this protocol.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(2, 1)
    _train(work, asked, out)


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


def _end_with_parent(asked: TextIO) -> None:
    """Whoever started this process and is gone, even killed, has closed its end of standard input."""
    asked.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _train(work: dict[str, Any], asked: TextIO, out: TextIO) -> None:
    # Imported late, so that jax sees the cores and devices that this process has.
    from jaxprop.config.load import load
    from jaxprop.run.interrupt import Interrupts
    from jaxprop.sinks.jsonl import encode
    from jaxprop.tools.sweep.choice import ROUND_SECONDS
    from jaxprop.tools.sweep.plan import Trial, overrides
    from jaxprop.tools.sweep.programs import Group, groups, is_alike
    from jaxprop.tools.sweep.sweep import ends_of
    from jaxprop.tools.sweep.training import Terms

    def say(**line: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever has started this has left; what was trained is saved
            print(encode(line), file=out, flush=True)

    def trial_of(setting: dict[str, Any], seed: int, folder: str) -> Trial:
        words = [*work["fixed"], *overrides(setting), f"run.seed={seed}"]
        return Trial(setting, seed, load(work["config"], words, work["code"]).config, folder)

    def is_wanted(first: Group, timed: Trial) -> bool:
        """Times a step as its parent asks; returns whether the runs are to be trained here."""
        program = first.program if is_alike(first.trials[0], timed) else next(groups([timed])).program
        assert program is not None  # the parent has one
        say(compiled=program.pace.compiling)
        if not asked.readline():
            return False
        say(seconds=program.typical(ROUND_SECONDS))
        return bool(asked.readline())

    began = time.monotonic()
    made = groups([trial_of(*run) for run in work["runs"]])
    if work["timed"] is not None:
        first = next(made)
        if not is_wanted(first, trial_of(*work["timed"])):
            return
        made = itertools.chain([first], made)
    threading.Thread(target=_end_with_parent, args=(asked,), daemon=True).start()
    with Interrupts(quiet=True) as interrupts:
        until = None if work["seconds"] is None else began + work["seconds"]
        terms = Terms(Path(work["folder"]), work["fresh"], lambda line: say(tell=line), interrupts, until)
        for group in made:
            for one in ends_of(group, terms, work["lanes"], terms.tell):
                say(ended=one._asdict())


if __name__ == "__main__":
    main()
