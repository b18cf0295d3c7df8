"""`jaxprop train`: trains or resumes the run of a config."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import (
    CodeOption,
    DistOption,
    JsonOption,
    OptionalConfigArgument,
    OverridesArgument,
    QuietOption,
    RunOption,
    home,
    overrides_only,
    split_config,
)
from jaxprop.cli.output import own_stdout, print_result, say
from jaxprop.errors import ConfigError, RunFolderError, UsageError
from jaxprop.sinks.streams import Lasting

if TYPE_CHECKING:
    from jaxprop.config.load import Loaded


def train(
    config: OptionalConfigArgument = None,
    overrides: OverridesArgument = None,
    run: RunOption = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="SWEEP",
            parser=home,
            help="train the best setting of a sweep, by its folder or its name in runs/, in the place of CONFIG",
            autocompletion=completion.sweeps,
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of resuming the run in DIR")] = False,
    quiet: QuietOption = False,
    code: CodeOption = None,
    dist: DistOption = "auto",
    json: JsonOption = False,
) -> int:
    """Train the run that a config describes, or resume it."""
    from jaxprop.run.interrupt import leaving_at_once

    loaded, default = _named(config, overrides, sweep, code or ())
    folder = run if run is not None else default
    with leaving_at_once():
        # Imported late, so that a mistake in the file is reported before jax has loaded.
        from jaxprop.run import train as runs
        from jaxprop.run.processes import start_processes
        from jaxprop.sinks import print_summary, summary_line
        from jaxprop.sinks.streams import tell

    with start_processes(dist) as hosts, own_stdout(hosts):
        for line in () if quiet or hosts.process_index else loaded.left_out:
            tell(line)
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


def _named(
    config: str | None, overrides: Sequence[str] | None, sweep: Path | None, code: Sequence[str]
) -> tuple[Loaded, Path]:
    """The configuration that the command line names, and the folder that its run has by default."""
    from jaxprop.config.load import load

    if sweep is not None:
        words = [*([] if config is None else [config]), *(overrides or [])]
        return _best(sweep, overrides_only(words, "--from"), code)
    if config is None:
        raise UsageError("Missing argument 'CONFIG': name a YAML file, a packaged config or a run, or --from SWEEP")
    name, changes = split_config(config, list(overrides or []))
    loaded = load(name, changes, code)
    return loaded, _folder(name, loaded)


def _best(sweep: Path, changes: Sequence[str], code: Sequence[str]) -> tuple[Loaded, Path]:
    """The configuration of a sweep with its best setting, and the folder of the run of that configuration."""
    from jaxprop.config.load import load
    from jaxprop.config.locate import RUNS, config_of_run
    from jaxprop.run.swept import best_of, find_sweep

    best = best_of(find_sweep(sweep))
    stored = config_of_run(str(best.run))
    if stored is None:
        raise RunFolderError(f"{best.run} has no config.yaml; the same 'jaxprop sweep' command trains the run anew")
    return load(stored, [*best.overrides, *changes], code, stored=True), Path(RUNS) / best.name


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
