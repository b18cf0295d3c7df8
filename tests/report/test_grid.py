"""RowBuffer as tables of layers by steps."""

import numpy as np
import pytest

from jaxprop.report.grid import RowBuffer


def row(step, layer, **cells):
    return {"step": step, "layer": layer, **cells}


def test_missing_and_not_finite_are_told_apart():
    rows = RowBuffer("layer", ["grad_norm", "update_ratio"])
    assert rows.add([row(1, "a", grad_norm=1.0), row(2, "a", grad_norm=None), row(2, "b", grad_norm=float("nan"))]) == 0
    grid = rows.grid()
    np.testing.assert_array_equal(grid.values["grad_norm"], [[1, np.inf], [np.nan, np.inf]])
    assert set(grid.values) == {"grad_norm"}


def test_what_a_tap_leaves_out_was_not_finite_unless_it_may_not_apply():
    rows = RowBuffer("tap", ["rms", "dead"])
    rows.add([{"step": 1, "tap": "a", "dead": 0.5}, {"step": 1, "tap": "b", "rms": 2.0}])
    values = rows.grid().values
    np.testing.assert_array_equal(values["rms"], [[np.inf], [2]])
    np.testing.assert_array_equal(values["dead"], [[0.5], [np.nan]])


def test_blocks_steps_and_rows_in_any_order():
    rows = RowBuffer("layer", ["grad_norm"])
    rows.add([row(9, "b", grad_norm=9.0)])
    rows.add([row(3, "a", grad_norm=3.0), row(9, "b", grad_norm=10.0), {"step": 3, "tap": "t"}])
    for _ in range(2):  # and once more, as a live page does
        grid = rows.grid(["a", "b"])
        assert (grid.names, grid.steps.tolist()) == (("a", "b"), [3, 9])
        np.testing.assert_array_equal(grid.values["grad_norm"], [[3, np.nan], [np.nan, 10]])
    rows.add([row(12, "c", grad_norm=1.0)])
    assert rows.grid(["a", "b"]).values["grad_norm"].shape == (3, 3)


BAD = [row("5", "a"), row(-1, "a"), row(True, "a"), row(2**60, "a"), row(5, None), row(5, ["a"]), {"layer": "a"}]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_what_is_no_row_is_counted(bad):
    rows = RowBuffer("layer", ["grad_norm"])
    assert rows.add([bad, row(1, "a", grad_norm=1.0)]) == 1
    assert rows.grid().values["grad_norm"].tolist() == [[1.0]]


@pytest.mark.parametrize("cell", ["x", [1], {"a": 1}, 10**400, 1e300], ids=lambda cell: repr(cell)[:8])
def test_a_cell_that_is_no_float32_is_not_finite(cell):
    rows = RowBuffer("layer", ["grad_norm"])
    rows.add([row(1, "a", grad_norm=cell), row(1, "b", grad_norm=2.0)])
    assert rows.grid().values["grad_norm"].tolist() == [[np.inf], [2.0]]


def test_nothing():
    assert RowBuffer("layer", ["grad_norm"]).grid() is None
