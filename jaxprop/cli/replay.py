"""`jaxprop replay`: finds the origin of a NaN or an infinity in a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import JsonOption, RunArgument
from jaxprop.cli.output import print_result
from jaxprop.cli.tables import shorten, show
from jaxprop.errors import EXIT_DONE

if TYPE_CHECKING:
    from jaxprop.health.nonfinite.find import Hop

MOST = 12  # largest number of parameters shown


def replay(
    run: RunArgument,
    step: Annotated[
        int | None, typer.Option("--step", help="number of the failing step; default: the first one")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Find the operation, layer, source line and examples that produced a NaN."""
    from jaxprop.tools.replay import replay_run

    replayed = replay_run(run, step)
    finding = replayed.finding
    if json:
        found = None if finding is None else finding.record()
        values = {"step": replayed.step, "finding": found, "notes": replayed.notes}
        print_result("replay", replayed.run, values)
        return EXIT_DONE
    print(replayed.message)
    if finding is not None:
        show(["from there", "pass", "layer", "line", "not finite"], [_row(hop) for hop in finding.path], right=[4])
        paths, more = shorten(finding.affected, MOST)
        rest = [f"and {more} more"] if more else []
        show(["parameters whose gradient is not finite"], [[cell] for cell in [*paths, *rest]])
    return EXIT_DONE


def _row(hop: Hop) -> tuple[str, ...]:
    line = f"{Path(hop.file).name}:{hop.line}" if hop.file else ""
    return hop.primitive, hop.phase, hop.layer or "", line, f"{hop.bad:,} of {hop.size:,}"
