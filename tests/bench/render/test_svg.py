"""Plots as SVG: points lie where their values are, and texts are only texts."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxprop.bench.render.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Plot, Point, bytes_label, figure
from tests.bench.documents import EVIL


def parsed(plot):
    return ElementTree.fromstring(figure(plot))


def circles(plot):
    return [(float(one.get("cx")), float(one.get("cy"))) for one in parsed(plot).iter("circle")]


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("log_y", [False, True])
def test_points_are_inside_and_in_order(log_x, log_y):
    points = [Point(2.0**i, 3.0**i, 3.0**i / 1.5, 3.0**i * 1.5) for i in range(8)]
    found = circles(Plot("t", [Line("a", points)], "x", "y", log_x=log_x, log_y=log_y))
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in found)
    assert found == sorted(found)
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)
    if log_x and log_y:  # equal ratios are equal distances
        steps = [round(b[1] - a[1], 0) for a, b in itertools.pairwise(found)]
        assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    "points",
    [
        [Point(1, 1)],
        [Point(1, 5), Point(2, 5)],
        [Point(1, 0.0), Point(2, 0.0)],
        [Point(1, 1e-9), Point(2, 1e12)],
        [Point(3, -2), Point(4, -1)],
    ],
)
def test_any_values_are_drawn(points):
    assert len(circles(Plot("t", [Line("a", points)], "x", "y"))) == len(points)
    if all(point.y > 0 for point in points):
        assert len(circles(Plot("t", [Line("a", points)], "x", "y", log_x=True, log_y=True))) == len(points)


def test_intervals_are_bars_and_values_are_said():
    root = parsed(Plot("t", [Line("a", [Point(1, 2, 1.5, 2.5, "two", "here"), Point(2, 3)])], "x", "y"))
    bars = [one for one in root.iter("line") if "bar" in one.get("class")]
    assert len(bars) == 1
    assert float(bars[0].get("y1")) > float(bars[0].get("y2"))
    assert [one.text for one in root.iter("title")] == ["two"]
    assert "here" in [one.text for one in root.iter("text")]


def test_places_may_have_names():
    names = [f"commit {i}" for i in range(40)]
    root = parsed(Plot("t", [Line("", [Point(i, 1.0) for i in range(40)])], "x", "y", x_names=names))
    shown = [one.text for one in root.iter("text") if one.text.startswith("commit")]
    assert shown == names[::5]
    assert not [one for one in root.iter("span") if one.get("class") == "key"]


def test_texts_are_escaped():
    plot = Plot(EVIL, [Line(EVIL, [Point(1, 1, None, None, EVIL, EVIL)])], EVIL, EVIL, x_names=["a", EVIL])
    assert "<img" not in figure(plot)
    assert not re.search(r'style="|<script', figure(plot))


def test_more_lines_than_colours():
    root = parsed(Plot("t", [Line(str(i), [Point(1, i + 1), Point(2, i + 2)]) for i in range(10)], "x", "y"))
    assert {one.get("class") for one in root.iter("polyline")} == {f"line-{i}" for i in range(8)}


def test_bytes():
    assert [bytes_label(2.0**i) for i in (0, 10, 25, 30, 40)] == ["1 B", "1 KiB", "32 MiB", "1 GiB", "1 TiB"]
