"""Panels that come from a file: what can be drawn is, whatever else the file holds."""

import pytest

from jaxprop.report.panels import as_json

MATRIX = {"rows": "label", "columns": "predicted", "names": ["0", "1"], "cells": [[3, 1], [0, 2]]}
TABLE = {"headers": ["name", "share"], "rows": [["a", 0.25], ["b", None]]}
SHADES = {"rows": "a", "columns": "b", "row_names": ["x"], "column_names": ["y", "z"], "cells": [[0.25, 1.0]]}
SCATTER = {"x": "true", "y": "predicted", "points": [[0.0, 1.0], [2.0, 3.0]]}


def drawn(kind, data):
    found = as_json({"step": 1, "examples": 2, "of": 3, "panels": [{"title": "t", "kind": kind, "data": data}]})
    return None if found is None else found["panels"][0]


def test_every_kind():
    assert drawn("matrix", MATRIX) == {"title": "t", "kind": "matrix", "hint": "", **MATRIX}
    assert drawn("shades", SHADES) == {"title": "t", "kind": "shades", "hint": "", **SHADES}
    assert drawn("shades", {**SHADES, "cells": [[-1, 7]]})["cells"] == [[0.0, 1.0]]
    assert drawn("scatter", SCATTER)["points"] == SCATTER["points"]
    table = drawn("table", TABLE)
    assert (table["rows"], table["right"]) == ([["a", "0.25"], ["b", "\N{EN DASH}"]], [1])


BAD = {
    "no kind": (None, MATRIX),
    "another kind": ("pie", MATRIX),
    "data is no dict": ("matrix", [1]),
    "ragged matrix": ("matrix", {**MATRIX, "cells": [[1], [2, 3]]}),
    "cells are no lists": ("matrix", {**MATRIX, "cells": 7}),
    "ragged shades": ("shades", {**SHADES, "cells": [[0.5]]}),
    "shades of nothing": ("shades", {**SHADES, "row_names": [], "cells": []}),
    "ragged table": ("table", {**TABLE, "rows": [["a"]]}),
    "no headers": ("table", {"rows": [["a"]]}),
    "no finite point": ("scatter", {**SCATTER, "points": [[None, 1], ["a", "b"], [1], 3]}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn_is_left_out(case):
    assert drawn(*BAD[case]) is None


@pytest.mark.parametrize("found", [None, {}, {"panels": 3}, {"panels": [3, None]}])
def test_a_file_without_panels(found):
    assert as_json(found) is None


def test_what_is_too_large_is_cut():
    assert len(drawn("scatter", {**SCATTER, "points": [[1, 2]] * 5000})["points"]) == 1000
    wide = {"row_names": ["r"] * 300, "column_names": ["c"] * 300, "cells": [[0.5] * 300] * 300}
    assert len(drawn("shades", {**SHADES, **wide})["cells"]) == 120
    assert len(drawn("table", {**TABLE, "rows": [["a", 1]] * 500})["rows"]) == 60


@pytest.mark.parametrize(("given", "split"), [({}, "test"), ({"split": "validation"}, "validation")])
def test_the_split_and_the_step_of_the_test_are_told(given, split):
    found = {"step": 40, "examples": 2, "of": 3, "panels": [{"title": "t", "kind": "table", "data": TABLE}]} | given
    shown = as_json(found, tested=30)
    assert (shown["split"], shown["step"], shown["tested"]) == (split, 40, 30)


def test_a_transcript_keeps_its_number_of_errors():
    one = {"example": 3, "reference": "a b", "said": "a", "height": 1, "width": 2, "pixels": "AAA=", "seconds": 1.5}
    for given, kept in ({"errors": 1}, 1), ({"errors": "many"}, None), ({}, None):
        panel = {"title": "t", "kind": "transcripts", "data": {"examples": [one | given]}}
        (drawn,) = as_json({"step": 1, "examples": 1, "of": 1, "panels": [panel]})["panels"][0]["examples"]
        assert (drawn["errors"], drawn["seconds"]) == (kept, 1.5)
