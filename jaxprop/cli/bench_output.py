"""What all commands of `jaxprop bench` print and write: progress, tables, and the files of results."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxprop.cli.arguments import home
from jaxprop.cli.output import print_json
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, EXIT_SIGINT, UsageError, one_of
from jaxprop.sinks.streams import Lasting, tell

if TYPE_CHECKING:
    from jaxprop.bench.document import Document
    from jaxprop.bench.session import Session

OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", parser=home, help="the file of results; default: a new one in bench/"),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="replace the results in the file of --out, which is refused otherwise")
]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", parser=home, help="write the results as Markdown too")
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", parser=home, help="write one page with plots too")
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0, help="no further round begins after so many seconds; each figure gets one")
]
AimOption = Annotated[
    float, typer.Option("--aim", min=0, help="half width of an interval, relative, at which a figure is settled")
]
ProcessesOption = Annotated[
    int,
    typer.Option("--processes", min=1, help="measure in so many processes, one after the other, which compares best"),
]
FOLDER = Path("bench")
FIRST = 18.0  # seconds until the first table, if the first round is not done before


def results_path(command: str, out: Path | None, force: bool = False) -> Path:
    """Returns the file of results: the one that was asked for, or a new one in `bench/`.

    Args:
      command: `device` or `train`.
      out: of the option `--out`, or None.
      force: whether results that lie there may be replaced.

    Raises:
      UsageError: the file holds results that would be lost, or is none that `jaxprop bench` has written.
    """
    if out is not None and out.exists() and (not out.is_file() or out.stat().st_size):
        from jaxprop.bench import document

        try:
            found = document.read(out)
        except UsageError:
            raise UsageError(
                f"--out {out}: exists, and is no file of results that could be replaced; name another file"
            ) from None
        if found.rows and not force:
            raise UsageError(f"--out {out}: holds results already; add --force to replace them, or name another file")
    # With the process, since two may begin in the same second.
    return out or FOLDER / f"{command}-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"


def batch_sizes(words: list[str] | None) -> tuple[int, ...]:
    """Reads the option `--batch`; `auto` is 0.

    Raises:
      UsageError: a word is neither `auto` nor a positive number.

    Example:
      >>> batch_sizes(["auto", "32"])
      (0, 32)
    """
    for word in words or []:
        if word != "auto" and not (word.isdigit() and int(word) > 0):
            raise UsageError(f"--batch {word}: expected a positive number, or auto for the largest batch that fits")
    return tuple(0 if word == "auto" else int(word) for word in words or [])


def precisions(words: list[str] | None) -> tuple[str, ...]:
    """Reads the option `--precision`.

    Raises:
      UsageError: there is no such precision.
    """
    known = ("float32", "bfloat16", "float16")
    for word in words or []:
        if word not in known:
            raise UsageError(f"--precision: {one_of(word, known, 'precision')}")
    return tuple(words or [])


class Screen:
    """Shows on stderr which figure was measured last; on a terminal only, since it is written over and over.

    Args:
      quiet: show nothing.
    """

    def __init__(self, *, quiet: bool):
        self._progress: Any = None
        self._start = time.monotonic()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                SpinnerColumn(), TextColumn("{task.completed} figures"), TimeElapsedColumn(),
                TextColumn("{task.description}"), console=Console(file=sys.stderr), transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task("warming up", total=None)
        self._shown, self._quiet = False, quiet

    def __enter__(self) -> Screen:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, sentence: str) -> None:
        """Shows what takes long."""
        if self._progress is not None:
            self._progress.update(self._task, description=sentence)
        elif not self._quiet:
            tell(sentence)

    def show(self, document: Document) -> None:
        """Shows the figure that was measured last; after the first round of all, the table so far."""
        from jaxprop.bench.render.tables import cell

        last = document.rows[-1]
        again = any(len(row.samples) > 1 for row in document.rows)
        if not self._shown and not self._quiet and (again or time.monotonic() - self._start > FIRST):
            self._shown = True
            self._say_first(document)
        if self._progress is not None:
            self._progress.update(
                self._task, completed=len(document.rows), description=f"{last.section} {last.name}: {cell(last)}"
            )

    def _say_first(self, document: Document) -> None:
        with contextlib.redirect_stdout(Lasting(sys.stderr)):
            print_tables(document)
            print(f"a first table, after {time.monotonic() - self._start:.0f} s; measuring goes on")


def finish(
    session: Session, measure: Callable[[], None], *, markdown: Path | None, html: Path | None, json: bool
) -> int:
    """Measures, and hands the results over, also where the measurement was interrupted.

    Args:
      session: of the measurement.
      measure: adds rows to it.
      markdown, html: further files, or None.
      json: whether the document itself is printed, and nothing else.

    Returns:
      The exit code.
    """
    complete = False
    try:
        measure()
        complete = True
    except KeyboardInterrupt:
        session.note("interrupted: what had been measured by then is here")
    finally:
        document = session.close(complete=complete)
    _hand_over(document, session.path, markdown=markdown, html=html, json=json)
    return EXIT_DONE if complete else EXIT_SIGINT


def _hand_over(document: Document, path: Path | None, *, markdown: Path | None, html: Path | None, json: bool) -> None:
    for more, render in ((markdown, _markdown), (html, _html)):
        if more is not None:
            render(document, more)
    if json:
        from jaxprop.bench.document import as_json

        print_json(as_json(document))
    else:
        print_document(document)
        print(f"results: {path}")


def apart(words: list[str], processes: int, path: Path, *, markdown: Path | None, html: Path | None, json: bool) -> int:
    """Measures in several processes, and hands the results over.

    Args:
      words: the command with its options, for each of the processes.
      processes: how many.
      path: of the file of results.
      markdown, html: further files, or None.
      json: whether the document itself is printed, and nothing else.

    Returns:
      The exit code.
    """
    from jaxprop.bench import document
    from jaxprop.bench.processes import measure_apart

    found, code = measure_apart(words, processes, (lambda _: None) if json else tell)
    document.write(path, found)
    _hand_over(found, path, markdown=markdown, html=html, json=json)
    return code


def print_document(document: Document) -> None:
    """Prints a document: where it was measured, its tables, and what is said about it."""
    environment = document.environment
    for i, device in enumerate(environment.devices):
        print(f"device {i}: {device['kind']} ({device['platform']}), {device['counts_as']}")
    host = environment.host
    print(f"host: {host['cpu']}, cores {host['affinity'] or host['cores']}; jax {environment.versions['jax']}")
    print_tables(document)
    for note in document.notes:
        print(f"note: {note}")


def print_tables(document: Document) -> None:
    """Prints the tables of a document, complete or not."""
    from jaxprop.bench.render.tables import tables

    for table in tables(document):
        print(f"\n{table.title}")
        show(table.headers, table.rows, right=list(range(1, len(table.headers))))


def _markdown(document: Document, path: Path) -> None:
    from jaxprop.bench.render.frame import write_page
    from jaxprop.bench.render.markdown import markdown

    write_page(path, markdown(document), "--markdown")


def _html(document: Document, path: Path) -> None:
    from jaxprop.bench.render.frame import write_page
    from jaxprop.bench.render.html import page

    write_page(path, page(document), "--html")
