"""`jaxprop train`: trains or resumes the run of a config."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, RunOption, split
from jaxprop.cli.output import print_json
from jaxprop.sinks.streams import Lasting


def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run: RunOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of resuming the run in DIR")] = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Train the run that a config describes, or resume it."""
    config, changes = split(config, overrides)
    from jaxprop.config.load import load
    from jaxprop.run.interrupt import leaving_at_once

    loaded = load(config, changes, code or ())
    with leaving_at_once():
        # Imported late, so that a mistake in the file is reported before jax has loaded.
        from jaxprop.run import train as runs
        from jaxprop.sinks import print_summary

    folder = run if run is not None else Path("runs") / loaded.name
    outcome = runs.train(loaded.config, folder, fresh=fresh)
    # What the run has come to is on disk: a stdout that is full or closed changes nothing about the exit code.
    with contextlib.redirect_stdout(Lasting(sys.stdout)):
        if json:
            print_json(outcome.summary, indent=2)
        else:
            print_summary(outcome.summary)
            print(f"run folder: {folder}")
        sys.stdout.flush()
    return outcome.exit_code
