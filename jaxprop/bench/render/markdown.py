"""A document as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprop.bench.document import Document
from jaxprop.bench.render.cells import METHOD, circumstances, right, title
from jaxprop.bench.render.tables import Table, tables
from jaxprop.errors import printable

SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "\\`*_[]<>|#~"} | {"\n": " ", "\r": " ", "&": "&amp;"}
)  # what Markdown or a cell would act on


def markdown(document: Document) -> str:
    """Returns a document as Markdown: a table a section, then where the figures come from and how they were measured.

    Args:
      document: any.

    Returns:
      The text of a file.
    """
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"# {escaped(title(document))}"
    for table in tables(document):
        yield from ("", f"## {escaped(table.title)}", "", *table_lines(table))
    if document.notes:
        yield from ("", "## Notes", "", *(f"- {escaped(note)}" for note in document.notes))
    yield from ("", "## Environment", "", "| | |", "|---|---|")
    yield from (f"| {escaped(name)} | {escaped(value)} |" for name, value in circumstances(document))
    yield from ("", "## Method", "", *(f"- {sentence}" for sentence in METHOD))


def table_lines(table: Table) -> Iterator[str]:
    """A table's lines.

    Example:
      >>> print(*table_lines(Table("t", ["a", "b"], [["x|y", "1"]])), sep="\\n")
      | a | b |
      |---|---:|
      | x\\|y | 1 |
    """
    numbers = right(table)
    yield f"| {' | '.join(escaped(name) for name in table.headers)} |"
    yield "|" + "|".join("---:" if i in numbers else "---" for i in range(len(table.headers))) + "|"
    for row in table.rows:
        yield f"| {' | '.join(escaped(cell) for cell in row)} |"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return printable(text.translate(SPECIAL))
