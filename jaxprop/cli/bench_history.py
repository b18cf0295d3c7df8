"""`jaxprop bench history`: each figure over all documents of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import can_print, print_result
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, UsageError, printable

if TYPE_CHECKING:
    from jaxprop.bench.history import Group, History


def bench_history(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=home, help="folder of files that `jaxprop bench` has written")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", parser=home, help="write a page with plots to this file")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Draw each figure over time from all documents in a folder, machine by machine."""
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: expected a file that ends in .html; write --html {html.name}.html")
    from jaxprop.bench.history import history

    found = history(folder)
    if html is not None:
        from jaxprop.bench.render.frame import write_page
        from jaxprop.bench.render.history import history_page

        write_page(html, history_page(found, f"History of {folder.name or folder}"), "--html")
    if json:
        print_result("bench history", None, _as_json(found), indent=2)
        return EXIT_DONE
    for one in found.damaged:
        print(f"skipped: {printable(one.reason)}")
    for group in found.groups:
        _print(group)
    if html is not None:
        print(f"page: {html}")
    return EXIT_DONE


def _print(group: Group) -> None:
    from jaxprop.bench.history import BLOCKS, sparkline
    from jaxprop.bench.render.history import ends

    print(f"bench {group.command}: {printable(group.machine)}; documents: {group.documents}")
    plain = not can_print(BLOCKS)
    rows = []
    for track in group.tracks:
        drawn = sparkline([entry.row.value or 0.0 for entry in track.measured], plain) if track.measured else ""
        rows.append([printable(track.what), track.device, *ends(track), drawn])
    headers = ["what", "device", "first", "last", "change", "verdict", ""]
    kept = [i for i in range(len(headers)) if i != 1 or len({row[1] for row in rows}) > 1]
    show(
        [headers[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        [kept.index(i) for i in kept if 2 <= i <= 4],
    )


def _as_json(found: History) -> dict[str, object]:
    groups = []
    for group in found.groups:
        tracks = [
            {
                "section": track.section, "name": track.name, "device": track.device, "overrides": track.overrides,
                "change": track.change,
                "verdict": track.line.verdict if track.line else None,
                "figures": [
                    {
                        "file": one.file, "started": one.started, "commit": one.commit, "value": one.row.value,
                        "low": one.row.low, "high": one.row.high, "unit": one.row.unit, "status": one.row.status,
                    }
                    for one in track.entries
                ],
            }
            for track in group.tracks
        ]  # fmt: skip
        groups.append({**group._asdict(), "tracks": tracks})
    return {"groups": groups, "damaged": found.damaged}
