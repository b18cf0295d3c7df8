"""The application, `train`, and what every signature is made of; what a command does is imported when it runs.

The modules in `COMMANDS` may import jax at their top: `--help` and usage errors never reach them.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxprop.errors import UsageError
from jaxprop.version import __version__

# command -> the function that runs it, which takes the arguments below and returns an exit code
COMMANDS = {
    "train": "jaxprop.cli.train:train",
    "eval": "jaxprop.cli.eval:evaluate",
    "report": "jaxprop.cli.report:report",
    "replay": "jaxprop.cli.replay:replay",
    "lesson": "jaxprop.cli.lesson:lesson",
    "validate": "jaxprop.cli.validate:validate",
    "schema": "jaxprop.cli.schema:schema",
    "configs": "jaxprop.cli.configs:configs",
    "init": "jaxprop.cli.init:init",
    "info": "jaxprop.cli.info:info",
    "gradcheck": "jaxprop.cli.gradcheck:gradcheck",
    "explain": "jaxprop.cli.explain:explain",
    "lr-find": "jaxprop.cli.lr_find:lr_find",
    "doctor": "jaxprop.cli.doctor:doctor",
}
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")

app = typer.Typer(
    name="jaxprop",
    help="Train from one YAML file, and see what the gradients are doing.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged config's name")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="overrides, such as optimizer.lr=3e-4")
]
RunOption = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="the run's folder; default: runs/NAME")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout, and nothing else")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jaxprop {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="show tracebacks; may stand anywhere on the line")
    ] = False,
) -> None:
    """Declares what stands before a command; `main` has acted on --verbose already."""


@app.command()
def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run: RunOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of resuming what DIR holds")] = False,
    json: JsonOption = False,
) -> None:
    """Train, or resume, the run a config describes."""
    config, changes = split(config, overrides)
    call("train", config=config, overrides=changes, run=run, fresh=fresh, json=json)


def call(command: str, **arguments: Any) -> None:
    """Imports a command, runs it, and leaves with its exit code."""
    module, _, function = COMMANDS[command].partition(":")
    code = getattr(importlib.import_module(module), function)(**arguments)
    raise typer.Exit(code)


def split(config: str, overrides: list[str] | None) -> tuple[str, tuple[str, ...]]:
    """Tells the config from the overrides, which may stand before it."""
    words = [config, *(overrides or [])]
    names = [word for word in words if not OVERRIDE.match(word)]
    if len(names) == 1:
        return names[0], tuple(word for word in words if OVERRIDE.match(word))
    if not names:
        raise UsageError(f"no config is named, only overrides; write it first: CONFIG {words[0]}")
    raise UsageError(f"expected key=value after the config {names[0]!r}, got {names[1]!r}")
