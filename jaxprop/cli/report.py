"""`jaxprop report`: draws runs as one HTML page and prints a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import home
from jaxprop.cli.output import can_print
from jaxprop.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from jaxprop.report.read import Reader


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="folders of runs; several are drawn over each other")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            parser=home,
            help="file of the page; default: report.html in the first RUN",
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="serve the page to this machine, and update it while a run trains")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="port of --serve; default: 8765 or the next free one"
        ),
    ] = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="print the summary only, and write no page")] = False,
) -> int:
    """Draw runs as one HTML page: verdict, curves, and maps of every layer."""
    if port is not None and not serve:
        raise UsageError(f"--port {port} needs --serve; add it")
    if serve and (out is not None or no_html):
        raise UsageError(f"--serve writes no file; leave out {'--no-html' if no_html else f'--out {out}'}")
    if out is not None and no_html:
        raise UsageError(f"--no-html writes no page, so --out {out} has no effect; give one of them")
    from jaxprop.report.compare import labels
    from jaxprop.report.page import render, target, write
    from jaxprop.report.payload import payload
    from jaxprop.report.serve import LivePage, open_server
    from jaxprop.report.terminal import BLOCKS, summaries

    readers = _readers(runs)
    path = target(out, readers[0].folder)
    paths = [reader.folder.resolve() for reader in readers]
    names = labels([(path.name, path.parent.name) for path in paths])
    if not serve:
        read = [reader.read() for reader in readers]
        print(summaries(read, names, plain=not can_print(BLOCKS)))
        if not no_html:
            write(path, render(payload(read, names)))
            print(f"report: {path}")
        return EXIT_DONE
    page = LivePage(
        lambda: tuple(reader.signature() for reader in readers),
        lambda: payload([reader.read() for reader in readers], names),
    )
    with open_server(page, port) as server:
        print(f"report: http://127.0.0.1:{server.server_port}/  (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return EXIT_DONE


def _readers(runs: Sequence[Path]) -> list[Reader]:
    from jaxprop.report.read import Reader

    readers = [Reader(run) for run in runs]
    return list({reader.folder.resolve(): reader for reader in readers}.values())
