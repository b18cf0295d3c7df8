"""`jaxprop sweep`: trains a configuration with many values of some keys, and ranks them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from jaxprop.cli.ranking import last_lines, print_table, warn
from jaxprop.errors import UsageError, printable

if TYPE_CHECKING:
    from jaxprop.run.swept import Results
    from jaxprop.tools.sweep import Plan, Swept
    from jaxprop.tools.sweep.grid import Words


MOST = {"--lanes": 10_000, "--processes": 1_000}  # a sweep has 10,000 runs at most

MinutesOption = Annotated[
    float | None, typer.Option("--minutes", metavar="M", help="begin no run after so many minutes")
]

ProcessesOption = Annotated[
    str,
    typer.Option(
        "--processes",
        metavar="N",
        help="train in N processes, each on its share of cores or GPUs; auto measures on a CPU what is faster",
    ),
]


def sweep(
    config: ConfigArgument,
    values: OverridesArgument = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="train each setting with N seeds; default: 1")
    ] = None,
    lanes: Annotated[
        str, typer.Option("--lanes", metavar="N", help="train N runs at a time; auto measures what is faster")
    ] = "auto",
    processes: ProcessesOption = "auto",
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="rank by this metric; default: that of the task")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="HOW", help="draw settings by tpe, cmaes or random in place of trying all"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", min=1, help="settings that --search tries in all")
    ] = None,
    minutes: MinutesOption = None,
    halving: Annotated[
        bool, typer.Option("--halving", help="with --search, end runs that are behind others after an evaluation")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="FILE", help="of --search: SQLite file or URL that several machines share"),
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

    varied, at_a_time, apart = axes_of(words), _number("--lanes", lanes), _number("--processes", processes)
    of_search = {"--trials": trials, "--halving": halving, "--storage": storage}
    made = _planned(config, varied, seeds, code or (), of_search if search is None else None)
    _check_terms(minutes, search, apart)
    folder = run if run is not None else Path("runs") / f"{made.name}-sweep"
    with leaving_at_once():
        # Imported late, so that a mistake in the command is reported before jax has loaded.
        from jaxprop.tools.sweep.search import Search
        from jaxprop.tools.sweep.search import search as searched
        from jaxprop.tools.sweep.sweep import sweep as swept

    terms: dict[str, Any] = {"metric": metric, "fresh": fresh, "lanes": at_a_time, "tell": _nothing if quiet else _tell}
    if search is None:
        found = swept(made, folder, minutes=minutes, processes=apart, code=code or (), **terms)
    else:
        wanted = Search(varied.spans, varied.axes, search, trials, minutes, halving, storage)
        found = searched(made, wanted, folder, code=code or (), **terms)
    _show(found, made, folder, quiet=quiet, json=json)
    return found.exit_code


def _check_terms(minutes: float | None, search: str | None, processes: int | None) -> None:
    if search is not None and (processes or 1) > 1:
        raise UsageError("--processes is for grids; several commands with one --storage search together")
    if minutes is not None and not minutes > 0:
        raise UsageError(f"--minutes: expected a number above 0, got {minutes:g}")


def _planned(
    config: str, varied: Words, seeds: int | None, code: Sequence[str], refused: Mapping[str, Any] | None
) -> Plan:
    """The plan of a grid, which refuses some options, or of a search, for which `refused` is None."""
    from jaxprop.tools.sweep.plan import drawn, plan

    if refused is None:
        return drawn(config, varied.spans, varied.axes, varied.fixed, seeds, code)
    _check_grid(varied, refused)
    return plan(config, varied.axes, varied.fixed, seeds, code)


def _show(found: Swept, made: Plan, folder: Path, *, quiet: bool, json: bool) -> None:
    """Prints what has come of the sweep."""
    warn(found.results)
    if json:
        from jaxprop.run.swept import as_json

        print_result("sweep", folder, as_json(found.results), indent=2)
        return
    if not quiet:
        print_table(found.results)
    lines = list(last_lines(found.results, _use(found.results, made)))
    for line in lines[-1:] if quiet else [*lines, f"folder: {folder}"]:
        say(line)


def _check_grid(words: Words, options: Mapping[str, Any]) -> None:
    """Refuses what only a search knows."""
    if words.spans:
        one = words.spans[0]
        ends = f"{one.form}({one.low:g}, {one.high:g}"
        raise UsageError(
            f"{one.key}={ends}) names no values; say how many, as in {ends}, 8), or draw them with --search tpe"
        )
    given = next((name for name, value in options.items() if value), None)
    if given is not None:
        raise UsageError(f"{given} is for --search; add --search tpe, or remove it")


def _number(option: str, text: str) -> int | None:
    """How many at a time; None to measure it."""
    if text == "auto":
        return None
    most = MOST[option]
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"{option}: expected auto or a number from 1 to {most:,}, got {text!r}")
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
    words = ["jaxprop", "train", plan.config, *plan.fixed, *overrides(found.good[0].setting)]
    return shlex.join(words)
