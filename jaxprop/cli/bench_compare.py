"""`jaxprop bench compare`: what is slower in the second of two documents than in the first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import print_result
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, printable
from jaxprop.sinks.streams import tell

if TYPE_CHECKING:
    from jaxprop.bench.compare import Comparison, Line

# What there is to act on stands at the end, where it is seen first; lines of one verdict keep their order.
ORDER = {"faster": 1, "repaired": 2, "slower": 3, "broken": 4}


def bench_compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", parser=home, help="the earlier document")],
    second: Annotated[Path, typer.Argument(metavar="B.json", parser=home, help="the later document")],
    fail_above: Annotated[
        str | None,
        typer.Option(
            "--fail-above",
            metavar="SHARE",
            help="exit with 1 if a row is slower by more than this, such as 5% or 0.05, or cannot be measured any more",
        ),
    ] = None,
    allow_no_verdict: Annotated[
        bool,
        typer.Option("--allow-no-verdict", help="with --fail-above, exit with 0 also where noise hides every verdict"),
    ] = False,
    every_row: Annotated[
        bool, typer.Option("--all", help="show also what a train step is held against: the device's own rates")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="compare different machines all the same")] = False,
    json: JsonOption = False,
) -> int:
    """Compare two documents row by row: the ratio of times with its interval, and a verdict that takes in the noise."""
    from jaxprop.bench import compare as comparing
    from jaxprop.bench.document import read

    limit = None if fail_above is None else comparing.share(fail_above)
    found = comparing.compare(read(first), read(second), force=force)
    failed = [] if limit is None else comparing.failures(found.lines, limit)
    judged = comparing.is_judged(found.lines)
    in_vain = limit is not None and not judged and not allow_no_verdict
    if json:
        values = {"judged": judged, "fail_above": limit, "failures": [_key(line) for line in failed]}
        print_result("bench compare", None, {**found._asdict(), **values}, indent=2)
    else:
        _print(found, every_row)
        if limit is not None and not in_vain:
            _tell(failed, limit)
            if count := found.count("no verdict"):
                print(f"nothing is said of the {count} without a verdict")
    if in_vain:
        tell(
            "error: no row has a verdict, so nothing has been compared; measure both again with --processes 5, or "
            "longer with --seconds, or accept it with --allow-no-verdict"
        )
    return EXIT_RUNTIME if failed or in_vain else EXIT_DONE


def _key(line: Line) -> list[str]:
    return [line.section, line.name, line.device]


def _print(found: Comparison, every_row: bool) -> None:
    from jaxprop.bench.compare import shown, subject

    for what, differences in (("machine", found.machine), ("differs", found.differences)):
        for one in differences:
            print(f"{what}: {printable(one.what)}: {shown(one.first)} -> {shown(one.second)}")
    for note in found.notes:
        print(f"note: {note}")
    main = subject(found.lines)
    others = [line for line in found.lines if line not in main]
    _show(main)
    shown_others = [line for line in others if every_row or line.verdict in ORDER]
    if shown_others:
        print("what the step is held against: the device's own rates, and its products by themselves")
        _show(shown_others)
    if len(others) > len(shown_others):
        print(f"{len(others) - len(shown_others)} rows of the device's own rates and of single products: see --all")
    counts = {verdict: found.count(verdict) for verdict in dict.fromkeys(line.verdict for line in found.lines)}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _tell(failed: list[Line], limit: float) -> None:
    if not failed:
        print(f"no row is slower by more than {limit:.3g} beyond its interval")
    for line in failed:
        what = printable(f"{line.section}: {line.name}")
        if line.verdict == "broken":
            print(f"failed: {what} cannot be measured any more ({printable(line.reason)})")
        else:
            print(f"failed: {what} takes {line.ratio:.3f} times as long, at least {line.low:.3f} times")


def _show(lines: Sequence[Line]) -> None:
    from jaxprop.bench.render.cells import number

    def figure(value: float | None, unit: str) -> str:
        return "" if value is None else f"{number(value)} {unit}".rstrip()

    headers = ["what", "device", "first", "second", "time", "95 %", "verdict", ""]
    rows = [
        (
            f"{line.section}: {line.name}", line.device, figure(line.first, line.unit), figure(line.second, line.unit),
            "" if line.ratio is None else f"{line.ratio:.3f}x",
            "" if line.low is None or line.high is None else f"{line.low:.3f} to {line.high:.3f}",
            line.verdict, line.reason,
        )
        for line in sorted(lines, key=lambda line: ORDER.get(line.verdict, 0))
    ]  # fmt: skip
    kept = [i for i in range(len(headers)) if any(row[i] for row in rows)]
    kept = [i for i in kept if i != 1 or len({row[1] for row in rows}) > 1]
    show(
        [headers[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        [kept.index(i) for i in kept if 2 <= i <= 5],
    )
