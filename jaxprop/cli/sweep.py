"""`jaxprop sweep`: trains a configuration with many values of some keys, and ranks them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import (
    CodeOption,
    ConfigArgument,
    JsonOption,
    OverridesArgument,
    QuietOption,
    home,
    split_config,
)
from jaxprop.cli.output import print_result, say
from jaxprop.cli.ranking import last_lines, print_table
from jaxprop.errors import UsageError, printable
from jaxprop.run.swept import as_json

if TYPE_CHECKING:
    from jaxprop.run.swept import Results
    from jaxprop.tools.sweep import Plan


def sweep(
    config: ConfigArgument,
    values: OverridesArgument = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="train each setting with N seeds; default: 1")
    ] = None,
    lanes: Annotated[
        str, typer.Option("--lanes", metavar="N", help="train N runs at a time; auto measures what is faster")
    ] = "auto",
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="rank by this metric; default: that of the task")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", parser=home, help="folder of the sweep; default: runs/NAME-sweep"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train all runs from their start")] = False,
    quiet: QuietOption = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Train a config with many values of some keys, such as 'optimizer.lr=log(1e-4, 1e-1, 8)', and rank them."""
    config, words = split_config(config, values)
    from jaxprop.run.interrupt import leaving_at_once
    from jaxprop.tools.sweep.grid import axes_of
    from jaxprop.tools.sweep.plan import plan

    varied, at_a_time = axes_of(words), _lanes(lanes)
    made = plan(config, varied.axes, varied.fixed, seeds, code or ())
    folder = run if run is not None else Path("runs") / f"{made.name}-sweep"
    with leaving_at_once():
        # Imported late, so that a mistake in the command is reported before jax has loaded.
        from jaxprop.tools.sweep.sweep import sweep as swept

    told = _nothing if quiet else _tell
    found = swept(made, folder, metric=metric, fresh=fresh, lanes=at_a_time, tell=told)
    if json:
        print_result("sweep", folder, as_json(found.results), indent=2)
    else:
        if not quiet:
            print_table(found.results)
        lines = list(last_lines(found.results, _use(found.results, made)))
        for line in lines[-1:] if quiet else [*lines, f"folder: {folder}"]:
            say(line)
    return found.exit_code


def _lanes(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--lanes: expected auto or a number of runs, at least 1, got {text!r}")
    return int(text)


def _nothing(_line: str) -> None:
    pass


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _use(found: Results, plan: Plan) -> str:
    """The command that trains the best setting."""
    from jaxprop.tools.sweep.plan import overrides

    if not plan.axes or not found.good:
        return ""
    return " ".join(["jaxprop train", plan.config, *plan.fixed, *overrides(found.good[0].setting)])
