"""What the processes of a run need alike. Others would train different models in silence, or wait for good."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprop.checkpoint.environment import environment
from jaxprop.config.diff import between_processes, differences
from jaxprop.config.dump import to_builtins
from jaxprop.errors import UsageError
from jaxprop.parallel.hosts import agree, check_alike, check_peers, decided, is_first, process_count, process_index
from jaxprop.run.compose import Experiment
from jaxprop.types import Source

VISIBLE_SECONDS = 15.0  # in which a network file system shows what another host has written


def check_fresh(fresh: bool) -> None:
    """Raises UsageError where only some processes are to start over; the others wait until process 0 has said so.

    Args:
      fresh: as `conduct` takes it.

    Example:
      >>> check_fresh(False)
    """
    if agree("a fresh start", fresh) != fresh:
        raise UsageError(
            f"process {process_index()} is to {'start over' if fresh else 'go on'}, and process 0 is not; start all "
            "processes by one command, with --fresh or without"
        )


def check_together(experiment: Experiment, folder: Path) -> None:
    """Raises UsageError where this process would train something else than process 0, or save it elsewhere.

    Args:
      experiment: what is trained.
      folder: of the run.
    """
    if process_count() == 1:
        return
    told = json.dumps(_told(experiment))
    first, mine = json.loads(agree("what is trained", told)), json.loads(told)
    changes = between_processes(first.pop("config"), mine.pop("config")) + differences(first, mine)
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise UsageError(
            f"process {process_index()} would train something else than process 0, which is named first:{lines}\n"
            "start all processes by one command, with the same data and packages"
        )
    if experiment.config.checkpoint.enabled:
        _check_shared(folder)


def _told(experiment: Experiment) -> dict[str, Any]:
    """What decides which steps are computed, as JSON values."""
    made = environment({})
    flags = {name: value for name, value in made["flags"].items() if name != "XLA_FLAGS"}  # hosts may need their own
    return {
        "config": to_builtins(experiment.config),
        "steps": experiment.total_steps,
        "data": {name: [source.length, source.fingerprint] for name, source in _sources(experiment)},
        "platform": made["platform"],
        "packages": {name: version for name, version in made["versions"].items() if name != "python"},
        "flags": flags,
    }


def _sources(experiment: Experiment) -> Iterator[tuple[str, Source]]:
    """The splits, which each process reads a part of; batches of the user's own differ between processes."""
    yield from experiment.sources.items()
    if isinstance(experiment.validation, Source):
        yield "evaluation", experiment.validation


def _check_shared(folder: Path) -> None:
    """Raises UsageError where a process does not see what process 0 writes to the run's folder."""
    name = decided("a file to be seen", lambda: _new_file(folder))
    try:
        deadline = time.monotonic() + VISIBLE_SECONDS
        while not os.path.lexists(folder / name):
            check_peers()
            if time.monotonic() > deadline:
                raise UsageError(
                    f"process {process_index()} does not see in {folder.absolute()} what process 0 has written to the "
                    "run's folder, so their parts of a checkpoint would lie apart; give all processes the same --run "
                    "DIR on a file system that they share, or save nothing with checkpoint.enabled=false"
                )
            time.sleep(0.1)
        check_alike("whether it sees the run's folder", True)
    finally:
        if is_first():
            (folder / name).unlink(missing_ok=True)


def _new_file(folder: Path) -> str:
    descriptor, path = tempfile.mkstemp(prefix=".shared-", dir=folder)
    os.close(descriptor)
    return Path(path).name
