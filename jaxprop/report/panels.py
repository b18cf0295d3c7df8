"""The panels of a run's task, checked: `panels.json` may be anyone's. Pure."""

from __future__ import annotations

import base64
from typing import Any

from jaxprop.report.fields import number, text, whole

MOST, ROWS, CLASSES, POINTS = 8, 60, 60, 1000  # panels, rows of a table, classes of a matrix, points of a plot
SHADES = 120  # rows and columns of shades
PICTURES, SIDE, BOXES = 12, 512, 200  # pictures of a panel, pixels of a side, boxes of a picture
MARKS = ("found", "missed", "alarm")  # what a box may be
RECORDINGS, PIXELS = 12, 2**16  # with a transcript, and of the picture of one


def as_json(found: dict[str, Any] | None, tested: int | None = None) -> dict[str, Any] | None:
    """Returns what the page draws of `panels.json`; None without a panel that can be drawn.

    Args:
      found: the contents of the file: `step`, `examples`, `of`, `split`, and `panels`, each with title, kind, data and
        hint. The panels are of the newest parameters.
      tested: the step of the checkpoint that the figures of the test split are of; None without such figures.

    Example:
      >>> panel = {"title": "Labels", "kind": "table", "data": {"headers": ["label"], "rows": [[1]]}}
      >>> as_json({"step": 3, "examples": 9, "of": 9, "panels": [panel, {"kind": "unheard of"}]})["panels"][0]["rows"]
      [['1']]
    """
    listed = (found or {}).get("panels")
    drawn = [_panel(item) for item in listed[:MOST] if isinstance(item, dict)] if isinstance(listed, list) else []
    kept = [panel for panel in drawn if panel is not None]
    if not kept or found is None:
        return None
    numbers = {name: whole(found.get(name)) for name in ("step", "examples", "of")}
    return {**numbers, "split": text(found.get("split"), "test"), "tested": tested, "panels": kept}


def _panel(item: dict[str, Any]) -> dict[str, Any] | None:
    data, kind = item.get("data"), text(item.get("kind"))
    if not isinstance(data, dict) or kind not in KINDS:
        return None
    drawn = KINDS[kind](data)
    heading = {"title": text(item.get("title"), "panel"), "kind": kind, "hint": text(item.get("hint"))}
    return None if drawn is None else {**heading, **drawn}


def _matrix(data: dict[str, Any]) -> dict[str, Any] | None:
    names = [text(name) for name in _list(data.get("names"))][:CLASSES]
    cells = [[whole(cell) or 0 for cell in _list(row)] for row in _list(data.get("cells"))][:CLASSES]
    if not names or len(cells) != len(names) or any(len(row) != len(names) for row in cells):
        return None
    return {"rows": text(data.get("rows")), "columns": text(data.get("columns")), "names": names, "cells": cells}


def _scatter(data: dict[str, Any]) -> dict[str, Any] | None:
    pairs = [[number(x) for x in pair] for pair in _list(data.get("points")) if len(_list(pair)) == 2]
    points = [pair for pair in pairs if None not in pair][:POINTS]
    return {"x": text(data.get("x")), "y": text(data.get("y")), "points": points} if points else None


def _table(data: dict[str, Any]) -> dict[str, Any] | None:
    headers = [text(header) for header in _list(data.get("headers"))]
    rows = [[_cell(cell) for cell in _list(row)] for row in _list(data.get("rows"))][:ROWS]
    if not headers or not rows or any(len(row) != len(headers) for row in rows):
        return None
    numeric = [i for i in range(len(headers)) if not any(isinstance(row[i], str) for row in _list(data.get("rows")))]
    return {"headers": headers, "rows": rows, "right": numeric}


def _shades(data: dict[str, Any]) -> dict[str, Any] | None:
    rows, columns = ([text(name) for name in _list(data.get(key))][:SHADES] for key in ("row_names", "column_names"))
    cells = [
        [min(max(number(cell) or 0.0, 0.0), 1.0) for cell in _list(row)][:SHADES] for row in _list(data.get("cells"))
    ]
    if not rows or not columns or len(cells[:SHADES]) != len(rows) or any(len(row) != len(columns) for row in cells):
        return None
    axes = {name: text(data.get(name)) for name in ("rows", "columns")}
    return {**axes, "row_names": rows, "column_names": columns, "cells": cells[:SHADES]}


def _pictures(data: dict[str, Any]) -> dict[str, Any] | None:
    listed = [_picture(item) for item in _list(data.get("pictures"))[:PICTURES] if isinstance(item, dict)]
    kept = [item for item in listed if item is not None]
    return {"pictures": kept} if kept else None


def _picture(item: dict[str, Any]) -> dict[str, Any] | None:
    height, width, channels = (whole(item.get(name)) or 0 for name in ("height", "width", "channels"))
    size = len(_bytes(item.get("pixels")))
    if not (0 < height <= SIDE and 0 < width <= SIDE and channels in (1, 3) and size == height * width * channels):
        return None
    boxes = []
    for box in _list(item.get("boxes"))[:BOXES]:
        edges = [number(x) for x in _list(box.get("box"))] if isinstance(box, dict) else []
        if len(edges) == 4 and None not in edges and box.get("kind") in MARKS:
            boxes.append({"box": edges, "kind": box["kind"], "text": text(box.get("text"))})
    pixels = {"height": height, "width": width, "channels": channels, "pixels": item["pixels"]}
    return {"title": text(item.get("title")), **pixels, "boxes": boxes}


def _transcripts(data: dict[str, Any]) -> dict[str, Any] | None:
    drawn = [_transcript(item) for item in _list(data.get("examples"))[:RECORDINGS] if isinstance(item, dict)]
    kept = [item for item in drawn if item is not None]
    return {"examples": kept} if kept else None


def _transcript(item: dict[str, Any]) -> dict[str, Any] | None:
    height, width, seconds = whole(item.get("height")) or 0, whole(item.get("width")) or 0, number(item.get("seconds"))
    pixels = _bytes(item.get("pixels"))
    if not seconds or seconds <= 0 or not 0 < len(pixels) == height * width <= PIXELS:
        return None
    words = {name: _words(item.get(name)) for name in ("words", "reference_words")}
    said = {name: text(item.get(name)) for name in ("reference", "said")}
    sizes = {"example": whole(item.get("example")), "height": height, "width": width, "seconds": seconds}
    sizes["errors"] = whole(item.get("errors"))
    return {**said, **sizes, **words, "pixels": base64.b64encode(pixels).decode()}


def _words(listed: Any) -> list[list[Any]]:
    """Words with the seconds of their start and end."""
    spans = [_list(word) for word in _list(listed)[:ROWS]]
    found = [[text(word[0]), number(word[1]), number(word[2])] for word in spans if len(word) == 3]
    return [word for word in found if None not in word]


def _bytes(value: Any) -> bytes:
    """What is written in base64; empty where it is not."""
    try:
        return base64.b64decode(text(value), validate=True)
    except ValueError:
        return b""


KINDS = {
    "matrix": _matrix,
    "pictures": _pictures,
    "scatter": _scatter,
    "shades": _shades,
    "table": _table,
    "transcripts": _transcripts,
}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return text(value)
    found = number(value)
    return "\N{EN DASH}" if found is None else f"{found:,.5g}" if found % 1 else f"{found:,.0f}"
