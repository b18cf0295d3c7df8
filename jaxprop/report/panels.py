"""The panels of a run's task, checked: `panels.json` may be anyone's. Pure."""

from __future__ import annotations

from typing import Any

from jaxprop.report.fields import number, text, whole

MOST, ROWS, CLASSES, POINTS = 8, 60, 60, 1000  # panels, rows of a table, classes of a matrix, points of a plot
SHADES = 120  # rows and columns of shades


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


KINDS = {"matrix": _matrix, "scatter": _scatter, "shades": _shades, "table": _table}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return text(value)
    found = number(value)
    return "\N{EN DASH}" if found is None else f"{found:,.5g}" if found % 1 else f"{found:,.0f}"
