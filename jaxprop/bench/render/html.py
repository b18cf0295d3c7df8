"""A document as one HTML page with plots."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from jaxprop.bench.document import Document
from jaxprop.bench.render.cells import METHOD, all_figures, circumstances, title
from jaxprop.bench.render.frame import frame, table_html
from jaxprop.bench.render.plots import plots
from jaxprop.bench.render.svg import figure
from jaxprop.bench.render.tables import Table, tables


def page(document: Document) -> str:
    """Returns a document as the text of one HTML file: plots, a table a section, environment and method.

    Args:
      document: any.
    """
    return frame(title(document), _body(document))


def _body(document: Document) -> Iterator[str]:
    commit = f", commit {document.environment.commit}" if document.environment.commit else ""
    yield f"<h1>{escape(title(document))}</h1>"
    yield f'<p class="by">jaxprop bench {document.command}, {escape(document.started)}{escape(commit)}</p>'
    if not document.complete:
        yield '<p class="warn">Not complete: the command was ended before all was measured.</p>'
    drawn = [figure(plot) for plot in plots(document)]
    if drawn:
        yield f'<div class="grid">{"".join(drawn)}</div>'
    for table in tables(document):
        yield f"<h2>{escape(table.title)}</h2>"
        yield table_html(table)
    if document.rows:
        figures = all_figures(document)
        yield f"<details><summary>{figures.title}, with what could be read of the device</summary>"
        yield f"{table_html(figures)}</details>"
    else:
        yield "<p>Nothing was measured.</p>"
    if document.notes:
        yield "<h2>Notes</h2>"
        yield _listed(document.notes)
    yield "<h2>Environment</h2>"
    yield table_html(Table("", [], [[*pair] for pair in circumstances(document)]))
    yield "<h2>Method</h2>"
    yield _listed(METHOD)


def _listed(sentences: tuple[str, ...] | list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>"
