"""`jaxprop runs`: lists the runs in a folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import print_result
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, UsageError, one_of
from jaxprop.sinks.console import duration

if TYPE_CHECKING:
    from jaxprop.tools.runs import Listed


def runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", parser=home, help="folder of runs; default: runs")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="metric|time|when|step|name", help="the best, longest or newest run first")
    ] = "when",
    json: JsonOption = False,
) -> int:
    """List the runs in a folder: status, step, metrics, and the time that each has taken."""
    from jaxprop.tools.runs import KEYS, list_runs

    if sort not in KEYS:
        raise UsageError(f"--sort: {one_of(sort, KEYS, 'order')}")
    place = folder or Path("runs")
    # Without an argument, a project that has no runs yet is no mistake.
    found = [] if folder is None and not place.exists() else list_runs(place, sort)
    if json:
        listed = [{**run._asdict(), "run": str(run.run.absolute()), "when": _utc(run.when)} for run in found]
        print_result("runs", None, {"folder": str(place.absolute()), "sort": sort, "runs": listed}, indent=2)
    elif found:
        _print(found)
    else:
        print(f"no runs in {place}; 'jaxprop train CONFIG' makes one in runs")
    return EXIT_DONE


def _print(found: list[Listed]) -> None:
    headers = ["run", "status", "step", "metric", "best", "last", "time", "when", "problem"]
    rows = [
        [
            run.name, run.status, _figure(run.step, ",d"), run.metric, _figure(run.best, ".4g"),
            _figure(run.last, ".4g"), "" if run.seconds is None else duration(run.seconds),
            f"{datetime.fromtimestamp(run.when):%Y-%m-%d %H:%M}", run.problem,
        ]
        for run in found
    ]  # fmt: skip
    kept = [i for i in range(len(headers)) if i < len(headers) - 1 or any(row[i] for row in rows)]
    show([headers[i] for i in kept], [[row[i] for i in kept] for row in rows], right=[2, 4, 5, 6])


def _figure(value: float | None, form: str) -> str:
    return "" if value is None or value != value else format(value, form)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
