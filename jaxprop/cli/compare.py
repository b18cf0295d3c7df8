"""`jaxprop compare`: ranks runs that exist, and shows in what they differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import print_result, say
from jaxprop.cli.ranking import last_lines, print_table, warn
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE
from jaxprop.sinks.console import duration

if TYPE_CHECKING:
    from jaxprop.run.swept import Ended, Results

ONE_SEED = "with one seed in common nobody can tell the best from the next; train them with run.seed=1 and so on, too"
MORE = "'jaxprop report RUN RUN' draws their curves over each other"


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            parser=home,
            help="two runs or more, by their folders or their names in runs/; a sweep stands for all of its runs",
            autocompletion=completion.runs_and_sweeps,
        ),
    ],
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="metric of the evaluations; default: the task's")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Compare runs: the keys in which they differ, ranked over their seeds, and how sure the first place is."""
    from jaxprop.run.swept import as_json
    from jaxprop.tools.compare import compare as compared

    found = compared(runs, metric)
    warn(found)
    if json:
        print_result("compare", None, as_json(found), indent=2)
        return EXIT_DONE
    _print_runs(found)
    if found.good:
        print_table(found)
    unsure = found.verdict is not None and not math.isfinite(found.verdict.p)
    for line in [ONE_SEED] if unsure else last_lines(found._replace(left=0), ""):
        say(line)
    say(MORE)
    return EXIT_DONE


def _print_runs(found: Results) -> None:
    headers = ["run", "seed", "status", found.metric, "time", "problem"]
    rows = [_row(one, found.metric) for one in found.runs]
    kept = [i for i in range(len(headers)) if i < len(headers) - 1 or any(row[i] for row in rows)]
    show([headers[i] for i in kept], [[row[i] for i in kept] for row in rows], right=[1, 3, 4])


def _row(one: Ended, metric: str) -> list[str]:
    figure = f"{one.metrics[metric]:.4g}" if metric in one.metrics else ""
    took = "" if one.seconds is None else duration(one.seconds)
    return [one.folder, str(one.seed), one.status, figure, took, one.problem if one.problem != one.status else ""]
