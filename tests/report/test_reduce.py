"""Curves and maps made short without losing what matters."""

import base64

import numpy as np
import pytest

from jaxprop.report.grid import Grid
from jaxprop.report.reduce import COLUMNS, RANGES, band, decimate, heat_map, rounded


def codes(found):
    return np.frombuffer(base64.b64decode(found.codes), np.uint8).reshape(len(found.names), -1)


@pytest.mark.parametrize("at", [0, 1, 4_999, 77_777, 99_999])
@pytest.mark.parametrize("height", [5.0, -5.0])
def test_a_spike_never_vanishes(at, height):
    step = np.arange(100_000) * 3 + 1
    value = np.zeros(100_000)
    value[at] = height
    curve = decimate(step, value, bins=100)
    assert len(curve.step) <= 202
    assert dict(zip(curve.step, curve.value, strict=True))[3 * at + 1] == height
    assert (curve.step[0], curve.step[-1]) == (1, 299_998)
    assert curve.step == sorted(set(curve.step))


def test_a_short_curve_is_whole():
    curve = decimate(np.array([1, 5, 9]), np.array([1.0, np.nan, 3.0]))
    assert (curve.step, curve.value, curve.gaps) == ([1, 5, 9], [1.0, None, 3.0], [[5, 5]])


def test_what_is_not_finite_breaks_the_curve_and_is_told():
    value = np.ones(10_000)
    value[4_000:4_010] = np.inf
    value[-1] = np.nan
    curve = decimate(np.arange(10_000), value, bins=50)
    assert curve.gaps == [[4_000, 4_009], [9_999, 9_999]]
    assert None in curve.value


def test_many_gaps_are_joined_and_none_is_lost():
    value = np.ones(4_000)
    value[::2] = np.nan
    gaps = decimate(np.arange(4_000), value).gaps
    assert len(gaps) == RANGES
    assert (gaps[0][0], gaps[-1][1]) == (0, 3_998)


def test_digits():
    assert rounded(np.array([123456.7, -1e-30, 0.0, -np.inf]), 4) == [123500.0, -1e-30, 0.0, None]


def test_a_wide_map_keeps_the_largest_and_what_is_not_finite():
    table = np.full((3, 5_000), 1e-3, np.float32)
    table[0, 1_234] = 10.0
    table[1, 2_000] = np.inf
    table[2, 100:4_000] = np.nan
    found = heat_map(Grid(("a", "b", "c"), np.arange(1, 5_001), {"x": table}), "x")
    cells = codes(found)
    assert cells.shape == (3, COLUMNS)
    column = next(i for i, last in enumerate(found.last) if last >= 1_235)
    assert np.flatnonzero(cells[0] == 254).tolist() == [column]
    assert (cells[1] == 255).sum() == 1
    assert 300 < (cells[2] == 0).sum() < 313
    assert (found.low, found.high) == (pytest.approx(1e-3), pytest.approx(10))
    assert (found.first[0], found.last[-1]) == (1, 5_000)


def test_zero_is_no_power_of_ten():
    found = heat_map(Grid(("a",), np.arange(3), {"x": np.array([[0.0, 1e-3, 1.0]], np.float32)}), "x")
    assert codes(found).tolist() == [[1, 2, 254]]


def test_the_scale_spans_no_more_than_twelve_decades():
    table = np.array([[1e-30, 1e-3, 1e-2, 1e-1, 1e20]], np.float32)
    found = heat_map(Grid(("a",), np.arange(5), {"x": table}), "x")
    assert (found.low, found.high) == (pytest.approx(1e-6), pytest.approx(1e6))
    assert (found.below, found.above) == (True, True)
    assert codes(found)[0].tolist() == [2, 65, 86, 107, 254]


def test_a_narrower_scale_leaves_nothing_out():
    found = heat_map(Grid(("a",), np.arange(2), {"x": np.array([[1e-9, 1.0]], np.float32)}), "x")
    assert (found.low, found.high) == (pytest.approx(1e-9), 1)
    assert (found.below, found.above) == (False, False)


def test_values_read_back_from_their_codes():
    values = np.logspace(-8, 1, 300).astype(np.float32)
    found = heat_map(Grid(("a",), np.arange(300), {"x": values[None]}), "x")
    level = (codes(found)[0].astype(float) - 2) / 252
    np.testing.assert_allclose(found.low * (found.high / found.low) ** level, values, rtol=0.05)


def test_shares_have_a_linear_scale():
    found = heat_map(Grid(("a",), np.arange(3), {"x": np.array([[0.0, 0.5, 1.0]], np.float32)}), "x", "linear")
    assert (codes(found).tolist(), found.low, found.high) == ([[2, 128, 254]], 0, 1)


def test_rows_and_steps_without_anything_are_left_out():
    table = np.array([[np.nan, 1.0], [np.nan, np.nan]], np.float32)
    found = heat_map(Grid(("a", "b"), np.array([5, 7]), {"x": table}), "x")
    assert (found.names, found.first) == (["a"], [7])
    assert heat_map(Grid(("a",), np.array([5]), {"x": table[:1, :1]}), "x") is None
    assert heat_map(Grid(("a",), np.array([5]), {}), "x") is None


@pytest.mark.parametrize("cell", [0.0, np.inf, 3.0])
def test_a_map_of_one_value(cell):
    found = heat_map(Grid(("a",), np.array([5]), {"x": np.array([[cell]], np.float32)}), "x")
    assert 0 < found.low < found.high


@pytest.mark.parametrize("bins", [1, 7, 1000])
def test_a_band_keeps_every_extreme(bins):
    rng = np.random.default_rng(0)
    step, low = np.arange(1, 301), rng.normal(size=300)
    high = low + rng.random(300)
    high[5], low[9] = np.nan, np.inf
    kept = np.isfinite(low) & np.isfinite(high)
    found = band(step, low, high, bins)
    assert len(found.step) == min(bins, 298)
    assert found.step == sorted(found.step)
    assert min(found.low) == pytest.approx(low[kept].min(), rel=1e-4)
    assert max(found.high) == pytest.approx(high[kept].max(), rel=1e-4)


def test_no_band_of_nothing_finite():
    assert band(np.arange(3), np.full(3, np.nan), np.ones(3)).step == []
