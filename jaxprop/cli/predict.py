"""`jaxprop predict`: predicts new data with a trained run."""

from __future__ import annotations

import contextlib
import csv
import json as json_text
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from jaxprop.cli.arguments import CodeOption, home
from jaxprop.cli.output import print_json, say
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, UsageError, printable
from jaxprop.sinks.streams import tell

if TYPE_CHECKING:
    from jaxprop.tools.predict import Answer

SUFFIXES = (".csv", ".jsonl")
WIDEST = 48  # characters of a column before its cells stand out
Write = Callable[["Sequence[Answer]"], None]


OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="PATH",
        parser=home,
        help="write a .csv or .jsonl file instead of printing; or the folder for images with their boxes, which "
        "otherwise lie beside the images, and with --json are not drawn",
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, help="records at a time; default: as in evaluations"),
]
# Options of a task are given on as they are named here; one that the task does not have is refused.
TopOption = Annotated[
    int | None, typer.Option("--top", metavar="K", min=1, help="likeliest classes to name; default: 3")
]
BeamsOption = Annotated[
    int | None,
    typer.Option("--beams", metavar="N", min=1, max=256, help="search a translation with N beams; default: greedily"),
]
ScoreOption = Annotated[
    float | None,
    typer.Option("--score", metavar="S", min=0, max=1, help="lowest score of a box to tell; default: 0.3"),
]
NmsOption = Annotated[
    str | None,
    typer.Option(
        "--nms",
        metavar="class|all",
        help="class: also tell boxes of other classes on one object; default: all, one box for each object",
    ),
]
LinesOption = Annotated[
    bool, typer.Option("--json", help="print one line of JSON for each record on stdout, and nothing else")
]


def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=home, help="a run: its folder, its name in runs/, or champion:NAME")
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="files or folders like the training data, or a text; - is stdin, answered as it comes",
        ),
    ],
    out: OutOption = None,
    top: TopOption = None,
    batch_size: SizeOption = None,
    beams: BeamsOption = None,
    score: ScoreOption = None,
    nms: NmsOption = None,
    newest: Annotated[bool, typer.Option("--newest", help="use the newest checkpoint instead of the best")] = False,
    code: CodeOption = None,
    json: LinesOption = False,
) -> int:
    """Predict new data with a trained run."""
    if out is not None and out.suffix and out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: expected a name that ends in .csv or .jsonl, or a folder for images with boxes")
    from jaxprop.run.loaded import load
    from jaxprop.tools.draw import Drawings
    from jaxprop.tools.predict import predict_inputs

    given = {"top": top, "beams": beams, "score": score, "nms": nms}
    options = {name: value for name, value in given.items() if value is not None}
    file, folder = (None, out) if out is not None and not out.suffix else (out, None)
    opened, drawings = load(run, which="newest" if newest else None, code=code or ()), Drawings(folder)
    count = failed = 0
    with _output(file, json) as write:
        found = predict_inputs(opened, inputs, batch_size=batch_size, **options)
        for answers in found if json and folder is None else map(drawings.of, found):
            for answer in answers:
                if answer.error:
                    failed += 1
                    tell(f"error: {answer.input}: {answer.error}" if answer.input else f"error: {answer.error}")
            count += len(answers)
            write(answers)
            if file is None and getattr(sys.stdout, "silent", False):
                break  # who read the answers has left
    if failed:
        tell(f"{failed} of {count} records could not be predicted")
    if drawings.count:
        tell(f"pictures with boxes: {drawings.count}, {drawings.folder or 'beside the images'}")
    if file is not None:
        done = {"out": str(file), "records": count, "failed": failed}
        print_json(done) if json else say(f"{count - failed} predictions: {file}")
    return EXIT_RUNTIME if failed else EXIT_DONE


@contextlib.contextmanager
def _output(out: Path | None, json: bool) -> Iterator[Write]:
    if out is None:
        yield _lines(sys.stdout) if json else _table(sys.stdout)
        return
    from jaxprop.untrusted.writes import create_beside

    try:
        partial, raw = create_beside(out)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from error
    try:
        with raw, open(os.dup(raw.fileno()), "w", encoding="utf-8", newline="") as file:
            yield _csv(file) if out.suffix == ".csv" else _lines(file)
        os.replace(partial, out)  # so that nobody takes a part for the whole
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _lines(file: TextIO) -> Write:
    """One JSON object a line."""

    def write(answers: Sequence[Answer]) -> None:
        file.write("".join(_strict(answer.as_dict()) + "\n" for answer in answers))
        file.flush()

    return write


def _strict(value: dict[str, Any]) -> str:
    from jaxprop.sinks.jsonl import encode

    return encode(value)


def _csv(file: TextIO) -> Write:
    from jaxprop.tools.predict import rows_of

    writer: csv.DictWriter[str] | None = None

    def write(answers: Sequence[Answer]) -> None:
        nonlocal writer
        rows = [row for answer in answers if not answer.error for row in rows_of(answer)]
        if rows and writer is None:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
        for row in rows:
            assert writer is not None
            writer.writerow({name: _cell(value) for name, value in row.items()})
        file.flush()

    return write


def _cell(value: Any) -> Any:
    return json_text.dumps(value) if isinstance(value, list | dict) else value


def _table(file: TextIO) -> Write:
    """Rows under a header, as wide as the first batch needs; a wider cell of a later one stands out."""
    from jaxprop.tools.predict import rows_of

    widths: dict[str, int] = {}

    def write(answers: Sequence[Answer]) -> None:
        rows = [row for answer in answers if not answer.error for row in rows_of(answer)]
        cells = [{name: printable(_shown(value)) for name, value in row.items()} for row in rows]
        if cells and not widths:
            for name in cells[0]:
                widths[name] = min(max([len(name), *(len(row.get(name, "")) for row in cells)]), WIDEST)
            file.write(_line({name: name for name in widths}, widths))
        for row in cells:
            file.write(_line(row, widths))
        file.flush()

    return write


def _line(row: dict[str, str], widths: dict[str, int]) -> str:
    return "  ".join(row.get(name, "").ljust(width) for name, width in widths.items()).rstrip() + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
