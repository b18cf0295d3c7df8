"""The course of figures over time as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from jaxprop.bench.history import Entry, Group, History, Track
from jaxprop.bench.render.cells import figure as figure_of
from jaxprop.bench.render.cells import number, spread
from jaxprop.bench.render.frame import frame, table_html
from jaxprop.bench.render.svg import Line, Plot, Point, figure
from jaxprop.bench.render.tables import Table


def history_page(history: History, title: str) -> str:
    """Returns the page as the text of one HTML file: a plot a figure, machine by machine.

    Args:
      history: of a folder.
      title: of the page.
    """
    return frame(title, _body(history, title))


def _body(history: History, title: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    for one in history.damaged:
        yield f'<p class="warn">Skipped: {escape(one.reason)}</p>'
    for group in history.groups:
        yield f"<h2>bench {group.command}: {escape(group.machine)}</h2>"
        count = "one document" if group.documents == 1 else f"{group.documents} documents"
        yield f'<p class="by">{count}, the earliest first. Bars are intervals of 95 %.</p>'
        plots = [figure(plot(track)) for track in group.tracks if len(track.measured) > 1]
        if plots:
            yield f'<div class="grid">{"".join(plots)}</div>'
        yield table_html(table(group))


def plot(track: Track) -> Plot:
    """One figure over the documents.

    Args:
      track: at least one figure.
    """
    entries = track.measured
    row = entries[-1].row
    points = [
        Point(i, one.row.value or 0.0, one.row.low, one.row.high, f"{one.started}, {one.commit or 'no commit'}: "
              f"{figure_of(one.row)}{f' ± {spread(one.row)}' if spread(one.row) else ''}")
        for i, one in enumerate(entries)
    ]  # fmt: skip
    return Plot(
        title=track.what + (f", device {track.device}" if track.device != "0" else ""),
        lines=[Line("", points)],
        x_label="commits" if all(one.commit for one in entries) else "started, UTC",
        y_label=f"{row.unit}, {row.better} is better",
        x_names=_names(entries),
        from_zero=False,
    )


def _names(entries: Sequence[Entry]) -> list[str]:
    """Names of documents on an axis: commits, or what tells their times apart."""
    if all(one.commit for one in entries):
        return [(one.commit or "")[:8] for one in entries]
    same_day = len({one.started[:10] for one in entries}) == 1
    return [one.started[11:16] if same_day else one.started[5:10] for one in entries]


def table(group: Group) -> Table:
    """First and last figures of a group, and what has changed between them.

    Args:
      group: of a history.
    """
    return Table(
        title=group.machine,
        headers=["what", "device", "documents", "first", "last", "change", "verdict"],
        rows=[[track.what, track.device, str(len(track.entries)), *ends(track)] for track in group.tracks],
    )


def ends(track: Track) -> list[str]:
    """First figure, last figure, change and verdict as texts.

    Args:
      track: of a history.
    """
    found = track.measured
    if not found:
        return ["", figure_of(track.entries[-1].row), "", ""]
    first, last = found[0].row, track.entries[-1].row
    change = "" if track.change is None else f"{track.change:+.1%}"
    verdict = track.line.verdict if track.line else ""
    return [f"{number(first.value or 0.0)} {first.unit}".rstrip(), figure_of(last), change, verdict]
