"""Texts that come through standard input: plain lines, or the records that a run's own texts stood in."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from jaxprop.data import records
from jaxprop.data.bad import BadRecords
from jaxprop.data.rows import DELIMITERS, csv_rows, json_rows, ragged, raw_lines
from jaxprop.data.standard_input import NAME, Lines, csv_blocks, standard_input

Reading = Callable[[BadRecords], Iterator[records.Record]]
_BOM = "\ufeff"


class Form(NamedTuple):
    """How the records of files look that a run was trained on.

    Args:
      column: of the texts.
      delimiter: of CSV, where the configuration names one.
    """

    column: str
    delimiter: str | None = None


def piped_texts(form: Form | None) -> Iterator[Reading]:
    """Yields functions `(bad) -> records` of a text each, for the lines of standard input that are there.

    With a form, standard input is CSV where its first line has a column of that name. Otherwise each line is a JSON
    object if it begins with a brace, and a text itself if it does not.

    Args:
      form: of the run's own records; None where its texts stood in no column, so that every line is a text.
    """
    blocks = (block for block in standard_input() if block.content.strip())
    if form is None:
        yield from (partial(_plain, block) for block in blocks)
        return
    head = next(blocks, None)
    if head is None:
        return
    found = _header(head, form)
    if found is None:
        yield from (partial(_lines, block, form.column) for block in chain([head], blocks))
        return
    header, delimiter, rest = found
    rows = chain([rest], blocks)
    for block in rows if delimiter == "\t" else csv_blocks(rows, delimiter):
        yield partial(_rows, block, form.column, header, delimiter)


def _plain(block: Lines, bad: BadRecords) -> Iterator[records.Record]:
    return records.lines(io.BytesIO(block.content), NAME, bad, first=block.first)


def _lines(block: Lines, column: str, bad: BadRecords) -> Iterator[records.Record]:
    for number, raw in raw_lines(io.BytesIO(block.content), NAME, block.first):
        if not raw.lstrip().startswith(b"{"):
            yield from _plain(Lines(number, raw), bad)
            continue
        for line, record, why in json_rows(io.BytesIO(raw), NAME, first=number):
            if why is not None:
                bad.add(f"{NAME}:{line}", why)
            else:
                yield records.Record(f"{NAME}:{line}", (record.get(column),))


def _rows(
    block: Lines, column: str, header: Sequence[str], delimiter: str, bad: BadRecords
) -> Iterator[records.Record]:
    for line, row, why in csv_rows(
        io.BytesIO(block.content), NAME, delimiter, quoted=delimiter != "\t", to_predict=True
    ):
        where = f"{NAME}:{line + block.first - 1}"
        why = why or ragged(row, header, delimiter)
        if why is not None:
            bad.add(where, why)
        else:
            yield records.Record(where, (row[header.index(column)],))


def _header(head: Lines, form: Form) -> tuple[list[str], str, Lines] | None:
    """The columns, the delimiter, and the lines below, where the first line that is not blank is a header."""
    lines = io.BytesIO(head.content).readlines()
    at = next(i for i, line in enumerate(lines) if line.strip())
    text = lines[at].decode(errors="replace").removeprefix(_BOM)
    for delimiter in filter(None, (form.delimiter, *DELIMITERS)):
        try:
            columns = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        if form.column in columns:
            return columns, delimiter, Lines(head.first + at + 1, b"".join(lines[at + 1 :]))
    return None
