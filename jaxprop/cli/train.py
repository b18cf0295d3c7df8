"""`jaxprop train`: one configuration, one run."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxprop.config.load import load
from jaxprop.run.interrupt import leaving_at_once


def train(config: str, overrides: Sequence[str], run: Path | None, fresh: bool, json: bool) -> int:
    """Trains, or resumes, and prints the result; returns the exit code."""
    loaded = load(config, overrides)
    with leaving_at_once():
        # Only now, so that a mistake in the file is told before jax has loaded.
        from jaxprop.run import train as runs
        from jaxprop.sinks import print_summary

    folder = run if run is not None else Path("runs") / loaded.name
    outcome = runs.train(loaded.config, folder, fresh=fresh)
    if json:
        json_format.dump(outcome.summary, sys.stdout, indent=2)
        print()
    else:
        print_summary(outcome.summary)
        print(f"run folder: {folder}")
    return outcome.exit_code
