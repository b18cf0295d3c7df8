"""`jaxprop train`: trains or resumes the run of a config."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import (
    CodeOption,
    ConfigArgument,
    DistOption,
    JsonOption,
    OverridesArgument,
    QuietOption,
    RunOption,
    split_config,
)
from jaxprop.cli.output import own_stdout, print_result, say
from jaxprop.errors import ConfigError
from jaxprop.sinks.streams import Lasting

if TYPE_CHECKING:
    from jaxprop.config.load import Loaded


def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run: RunOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of resuming the run in DIR")] = False,
    quiet: QuietOption = False,
    code: CodeOption = None,
    dist: DistOption = "auto",
    json: JsonOption = False,
) -> int:
    """Train the run that a config describes, or resume it."""
    config, changes = split_config(config, overrides)
    from jaxprop.config.load import load
    from jaxprop.run.interrupt import leaving_at_once

    loaded = load(config, changes, code or ())
    folder = run if run is not None else _folder(config, loaded)
    with leaving_at_once():
        # Imported late, so that a mistake in the file is reported before jax has loaded.
        from jaxprop.run import train as runs
        from jaxprop.run.processes import start_processes
        from jaxprop.sinks import print_summary, summary_line

    with start_processes(dist) as hosts, own_stdout(hosts):
        outcome = runs.train(loaded.config, folder, fresh=fresh, brief=quiet)
    if hosts.process_index:
        return outcome.exit_code  # process 0 prints
    # What the run has come to is on disk: a stdout that is full or closed changes nothing about the exit code.
    with contextlib.redirect_stdout(Lasting(sys.stdout)):
        if json:
            print_result("train", folder, outcome.summary, indent=2)
        elif quiet:
            print(summary_line(outcome.summary, folder))
        else:
            print_summary(outcome.summary)
            say(f"run folder: {folder}")
        sys.stdout.flush()
    return outcome.exit_code


def _folder(config: str, loaded: Loaded) -> Path:
    """The folder of the run that a config names: the run itself, where it was given by its folder or its name."""
    from jaxprop.config.locate import RUN_CONFIG, RUNS

    given, found = Path(config), loaded.path.parent
    if loaded.path.name != RUN_CONFIG or given.name == RUN_CONFIG:
        return Path(RUNS) / loaded.name
    if found != given and (beside := given.with_name(f"{given.name}.yaml")).is_file():
        raise ConfigError(
            f"{config} is both the run in {found} and the file {beside}; write the one that is meant: "
            f"jaxprop train {found}, or jaxprop train {beside}"
        )
    return found
