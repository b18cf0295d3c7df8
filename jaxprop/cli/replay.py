"""`jaxprop replay`: where a failing step stopped being finite."""

from __future__ import annotations

from pathlib import Path

from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE
from jaxprop.health.nonfinite.find import Finding, Hop
from jaxprop.sinks.jsonl import encode
from jaxprop.tools.replay import replay_run


def replay(run: Path, step: int | None, json: bool) -> int:
    """Replays a failing step and prints what is found; returns the exit code."""
    replayed = replay_run(run, step)
    finding = replayed.finding
    if json:
        found = None if finding is None else finding.record()
        print(encode({"step": replayed.step, "finding": found, "notes": list(replayed.notes)}))
        return EXIT_DONE
    print(replayed.message)
    if finding is not None:
        show(["from there", "pass", "layer", "line", "not finite"], [_row(hop) for hop in finding.path], right=[4])
        show(["parameters whose gradient is not finite"], [[path] for path in _shortened(finding)])
    return EXIT_DONE


def _row(hop: Hop) -> tuple[str, ...]:
    line = f"{Path(hop.file).name}:{hop.line}" if hop.file else ""
    return hop.primitive, hop.phase, hop.layer or "", line, f"{hop.bad:,} of {hop.size:,}"


def _shortened(finding: Finding, most: int = 12) -> list[str]:
    shown = list(finding.affected[:most])
    return [*shown, f"and {len(finding.affected) - most} more"] if len(finding.affected) > most else shown
