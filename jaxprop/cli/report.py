"""`jaxprop report`: runs as one page, and in a few lines here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxprop.errors import EXIT_DONE, UsageError
from jaxprop.report.compare import labels
from jaxprop.report.page import render, target, write
from jaxprop.report.payload import payload
from jaxprop.report.read import Reader
from jaxprop.report.serve import LivePage, open_server
from jaxprop.report.terminal import BLOCKS, summaries


def report(runs: Sequence[Path], out: Path | None, serve: bool, port: int | None, html: bool) -> int:
    """Reads runs, prints what came of them, and writes or serves the page; returns the exit code.

    Args:
      runs: their folders.
      out: the page's file; None: `report.html` in the first run's folder.
      serve: serve the page instead, and keep it up to date.
      port: of the server; None: 8765 or the next free one.
      html: whether there is to be a page.
    """
    if port is not None and not serve:
        raise UsageError(f"--port {port} is of the server; add --serve")
    if serve and (out is not None or not html):
        raise UsageError(f"--serve writes no file; leave out {'--no-html' if not html else f'--out {out}'}")
    if out is not None and not html:
        raise UsageError(f"--no-html leaves nothing to write to --out {out}; give one of them")
    readers = _readers(runs)
    path = target(out, readers[0].folder)
    paths = [reader.folder.resolve() for reader in readers]
    names = labels([(path.name, path.parent.name) for path in paths])
    if not serve:
        read = [reader.read() for reader in readers]
        print(summaries(read, names, _is_plain()))
        if html:
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
    readers = [Reader(run) for run in runs]
    return list({reader.folder.resolve(): reader for reader in readers}.values())


def _is_plain() -> bool:
    try:
        BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
