"""One measurement in several processes, one after the other, as one document.

Equal programs differ from process to process, since memory and code lie elsewhere each time. One process cannot tell by
how much, so `compare` judges best between two documents of several processes each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxprop.bench import document
from jaxprop.bench.document import Document, Row
from jaxprop.bench.rounds import NOISY
from jaxprop.bench.samples import drift, estimate
from jaxprop.errors import EXIT_DONE, EXIT_SIGINT, JaxpropError

ADD_UP = ("waited_seconds", "others_seconds", "joules")  # of the facts of a row


def measure_apart(words: Sequence[str], count: int, say: Callable[[str], None]) -> tuple[Document, int]:
    """Runs a command of `jaxprop bench` several times and merges what it has measured.

    Args:
      words: the command and its options, such as `["train", "mlp"]`.
      count: of processes.
      say: takes a line about what goes on.

    Returns:
      One document, and the exit code of the last process; after one that failed, no further is started.

    Raises:
      JaxpropError: no process has left any figure.
    """
    found: list[Document] = []
    code = EXIT_DONE
    with tempfile.TemporaryDirectory(prefix="jaxprop-bench-") as folder:
        for i in range(count):
            say(f"process {i + 1} of {count}")
            path = Path(folder, f"{i}.json")
            command = [sys.executable, "-m", "jaxprop", "bench", *words, "--json", "--out", str(path)]
            try:
                code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
            except KeyboardInterrupt:  # which the process has been sent, too
                code = EXIT_SIGINT
            if path.exists():
                found.append(document.read(path))
            if code != EXIT_DONE:
                break
    if not any(row.value for one in found for row in one.rows):
        raise JaxpropError("nothing was measured; the reason stands above")
    return merge(found, count), code


def merge(documents: Sequence[Document], count: int) -> Document:
    """Merges documents of the same command.

    Args:
      documents: of one process each, at least one.
      count: of processes that were asked for.

    Returns:
      The first one, with the rounds of all of them in its rows.
    """
    first = documents[0]
    rows = {row.key: [one for other in documents for one in other.rows if one.key == row.key] for row in first.rows}
    return first.model_copy(
        update={
            "rows": [_merged(same) for same in rows.values()],
            "notes": list(dict.fromkeys(note for one in documents for note in one.notes)),
            "arguments": first.arguments | {"processes": count},
            "seconds": round(sum(one.seconds for one in documents), 1),
            "complete": len(documents) == count and all(one.complete for one in documents),
        }
    )


def _merged(rows: Sequence[Row]) -> Row:
    """The rows of one figure as one; a process in which it failed makes it a failure, with its message."""
    failed = [row for row in rows if row.value is None]
    if failed or not all(row.samples for row in rows):
        return failed[0] if failed else rows[0]
    first, rounds = rows[0], [one for row in rows for one in row.samples]
    taken = estimate(rounds)
    ends = (taken.low, taken.middle, taken.high)
    if first.better == "higher":
        low, value, high = (first.per_call / one if one else None for one in reversed(ends))
    else:
        low, value, high = (first.per_call * one for one in ends)
    return first.model_copy(
        update={
            "samples": rounds,
            "processes": [len(row.samples) for row in rows],
            "low": low,
            "value": value,
            "high": high,
            "drift": drift(rounds),
            "status": "noisy" if taken.noise > NOISY else "ok",
            "facts": _facts(rows),
        }
    )


def _facts(rows: Sequence[Row]) -> dict[str, document.Fact]:
    """Those of the first process; what was measured adds up or is the median of all."""
    found = dict(rows[0].facts)
    for name, fact in rows[0].facts.items():
        values = [value for row in rows if isinstance(value := row.facts.get(name), float)]
        if isinstance(fact, float) and len(values) == len(rows):
            found[name] = round(sum(values), 6) if name in ADD_UP else statistics.median(values)
    return found
