"""`jaxprop report`: draws runs as one HTML page and prints a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import JsonOption, QuietOption, home
from jaxprop.cli.output import can_print, print_result, say
from jaxprop.cli.report_sweep import draw_sweep, serve_page, serve_sweep
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, UsageError, printable

if TYPE_CHECKING:
    from jaxprop.report.read import Reader, RunData

WIDE = ("final train loss", "parameters", "alerts", "worst layer")  # columns that the page has room for


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="runs, by their folders, their names in runs/ or champion:NAME; several are drawn over each other; or "
            "a sweep, of which the best run is drawn where it is one of several",
            autocompletion=completion.runs_and_sweeps,
        ),
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
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Draw runs as one HTML page: verdict, curves, and maps of every layer; or all settings of a sweep."""
    if port is not None and not serve:
        raise UsageError(f"--port {port} needs --serve; add it")
    if serve and (out is not None or no_html):
        raise UsageError(f"--serve writes no file; leave out {'--no-html' if no_html else f'--out {out}'}")
    if serve and (json or quiet):
        raise UsageError(
            f"--serve goes on until Ctrl-C and prints no result; leave out {'--json' if json else '--quiet'}"
        )
    if out is not None and no_html:
        raise UsageError(f"--no-html writes no page, so --out {out} has no effect; give one of them")
    from jaxprop.report.page import target
    from jaxprop.run.swept import sweep_named

    if len(runs) == 1 and (sweep := sweep_named(runs[0])) is not None:
        if serve:
            serve_sweep(sweep, port)
        else:
            draw_sweep(sweep, None if no_html else target(out, sweep), quiet=quiet, json=json)
        return EXIT_DONE
    readers = _readers([_best(run, told=not (quiet or json)) for run in runs])
    path = target(out, readers[0].folder)
    names = _names(readers)
    if serve:
        _serve(readers, names, port)
    else:
        _draw(readers, names, None if no_html else path, quiet=quiet, json=json)
    return EXIT_DONE


def _draw(readers: Sequence[Reader], names: Sequence[str], page: Path | None, *, quiet: bool, json: bool) -> None:
    """Writes the page, if it is wanted, and prints what it shows."""
    from jaxprop.report.compare import compare
    from jaxprop.report.page import render, write
    from jaxprop.report.payload import payload
    from jaxprop.report.terminal import BLOCKS, summaries
    from jaxprop.report.verdict import judge

    read = [reader.read() for reader in readers]
    if not (quiet or json):
        print(summaries(read, names, plain=not can_print(BLOCKS)))
        if len(read) > 1:
            print()
            found = compare(read, names)
            kept = [i for i, header in enumerate(found.headers) if header not in WIDE]
            show([found.headers[i] for i in kept], [[row[i] for i in kept] for row in found.rows])
    if page is not None:
        write(page, render(payload(read, names)))
    if json:
        only = readers[0].folder if len(readers) == 1 else None
        folders = [reader.folder.absolute() for reader in readers]
        print_result("report", only, _as_json(read, names, folders, page), indent=2)
    elif page is not None:
        say(f"report: {page}")
    elif quiet:
        for run, name in zip(read, names, strict=True):
            print(printable(f"{name}: {judge(run).headline}"))


def _serve(readers: Sequence[Reader], names: Sequence[str], port: int | None) -> None:
    from jaxprop.report.payload import payload

    serve_page(
        lambda: tuple(reader.signature() for reader in readers),
        lambda: payload([reader.read() for reader in readers], names),
        port,
    )


def _best(run: Path, *, told: bool) -> Path:
    """The best run of a sweep where that stands among runs; otherwise the run itself."""
    from jaxprop.run.swept import best_of, sweep_named

    sweep = sweep_named(run)
    if sweep is None:
        return run
    best = best_of(sweep).run
    if told:
        say(f"{sweep}: the run of its best setting with the first seed, {best.name}")
    return best


def _names(readers: Sequence[Reader]) -> list[str]:
    """A name for each run; where there are several, that of one in a sweep says of which."""
    from jaxprop.report.compare import labels
    from jaxprop.run.swept import is_sweep

    folders = [reader.folder.resolve() for reader in readers]
    if len(folders) == 1:
        return [folders[0].name]
    named = [folder.parent if is_sweep(folder.parent) else folder for folder in folders]  # what lies in its parent
    return labels(
        [
            (folder.relative_to(place.parent).as_posix(), place.parent.name)
            for folder, place in zip(folders, named, strict=True)
        ]
    )


def _as_json(
    read: Sequence[RunData], names: Sequence[str], folders: Sequence[Path], page: Path | None
) -> dict[str, Any]:
    from jaxprop.report.compare import compare
    from jaxprop.report.verdict import judge

    runs = [
        {"name": name, "run": str(folder), "status": run.status, "step": run.last_step, **judge(run)._asdict()}
        for run, name, folder in zip(read, names, folders, strict=True)
    ]
    return {
        "report": None if page is None else str(page.absolute()),
        "runs": runs,
        "compare": compare(read, names) if len(read) > 1 else None,
    }


def _readers(runs: Sequence[Path]) -> list[Reader]:
    from jaxprop.report.read import Reader

    readers = [Reader(run) for run in runs]
    return list({reader.folder.resolve(): reader for reader in readers}.values())
