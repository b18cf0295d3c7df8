"""`jaxprop report SWEEP`: all settings of a sweep on one page, and in the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprop.cli.output import print_result, say
from jaxprop.cli.ranking import last_lines, print_table, warn
from jaxprop.run.folder import shown

if TYPE_CHECKING:
    from jaxprop.report.sweeps.read import SweepData

TOLD = 10  # lost runs, and settings with alerts, that the terminal names


def draw_sweep(sweep: Path, page: Path | None, *, quiet: bool, json: bool) -> None:
    """Writes the page of a sweep, if it is wanted, and prints what it shows.

    Args:
      sweep: its folder.
      page: the file; None for none.
      quiet: print one line.
      json: print the figures as JSON.
    """
    from jaxprop.report.page import render, write
    from jaxprop.report.sweeps.payload import alerts_by_setting, payload
    from jaxprop.report.sweeps.read import SweepReader
    from jaxprop.run.swept import as_json

    read = SweepReader(sweep).read()
    if page is not None:
        write(page, render(payload(read, page.parent, _use(sweep))))
    warn(read.results)
    if json:
        figures = {**as_json(read.results), "alerts": alerts_by_setting(read)}
        report = None if page is None else str(page.absolute())
        print_result("report", sweep, {"report": report, "sweep": figures, "runs": [], "compare": None}, indent=2)
        return
    if not quiet:
        print_table(read.results)
        _print_trouble(read)
    lines = list(last_lines(read.results, _use(sweep)))
    for line in lines[-1:] if quiet and page is None else [] if quiet else lines:
        say(line)
    if page is not None:
        say(f"report: {page}")


def _use(sweep: Path) -> str:
    """The command that trains the best setting."""
    return f"jaxprop train --from {shlex.quote(shown(sweep))}"


def _print_trouble(read: SweepData) -> None:
    """Prints the lost runs with why, and the settings with alerts."""
    from jaxprop.report.sweeps.payload import alerts_by_setting, lost_runs
    from jaxprop.run.swept import label

    lost, alerts = lost_runs(read), alerts_by_setting(read)
    for run in lost[:TOLD]:
        say(f"lost: {label(run.ended.setting, run.ended.seed)}: {run.ended.problem}")
    if len(lost) > TOLD:
        say(f"and {len(lost) - TOLD} more lost runs")
    for row in alerts[:TOLD]:
        kinds = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in row["kinds"])
        say(f"alerts: {row['label']}: {kinds}")
    if len(alerts) > TOLD:
        say(f"and {len(alerts) - TOLD} more settings with alerts")
    for note in read.notes:
        say(f"note: {note}")


def serve_sweep(sweep: Path, port: int | None) -> None:
    """Serves the page of a sweep, and updates it while runs are trained.

    Args:
      sweep: its folder.
      port: see `--port`.
    """
    from jaxprop.report.sweeps.payload import payload
    from jaxprop.report.sweeps.read import SweepReader

    reader = SweepReader(sweep)
    serve_page(reader.signature, lambda: payload(reader.read(), None, _use(sweep)), port)


def serve_page(signature: Callable[[], Hashable], data: Callable[[], dict[str, Any]], port: int | None) -> None:
    """Serves a page until Ctrl-C.

    Args:
      signature: returns a value that changes with the files.
      data: returns the data that the page draws.
      port: see `--port`.
    """
    from jaxprop.report.serve import LivePage, open_server

    page = LivePage(signature, data)
    with open_server(page, port) as server:
        say(f"report: {page.url(server.server_port)}  (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
