"""The report in a terminal."""

import numpy as np
import pytest

from jaxprop.report.read import Reader, Series
from jaxprop.report.terminal import BLOCKS, sparkline, summaries, summarize
from tests.report.runs import ACTION, ALERT, evil_run, make_run


def series(*values):
    return Series(np.arange(len(values)) * 10, np.array(values, float))


TABLE = [
    (series(0, 7), "▁█"),
    (series(3, 3, 3), "▁▁▁"),
    (series(5), "▁"),
    (series(1e-3, 1, 1e3), "▁▅█"),
    (series(0, np.nan, 7), "▁!█"),
    (series(np.nan, np.inf), "!!"),
    (series(-7, 0), "▁█"),
]


@pytest.mark.parametrize(("curve", "drawn"), TABLE)
def test_sparkline(curve, drawn):
    assert sparkline(curve) == drawn


def test_a_spike_of_a_long_run_is_seen():
    values = np.zeros(10_000)
    values[5_000] = 1
    values[7_777] = np.nan
    drawn = sparkline(Series(np.arange(10_000), values), width=50)
    assert (len(drawn), drawn.count("█"), drawn.index("█"), drawn.count("!"), drawn.index("!")) == (50, 1, 25, 1, 38)


def test_a_stretch_without_records_is_blank():
    curve = Series(np.array([0, 1, 99]), np.array([0.0, 1.0, 1.0]))
    assert sparkline(curve, width=3) == "█ █"


def test_a_run_in_lines(tmp_path):
    run = Reader(make_run(tmp_path / "a", alerts=[ALERT, ACTION])).read()._replace(notes=("one thing is missing",))
    lines = summarize(run, "a").splitlines()
    assert lines[0] == "a: Gradient spike in layers/1/dense at step 60; the run completed all the same."
    assert lines[1] == "  what     The gradient norm is far above its own history (z-score): 12, the limit is 4.5"
    assert "  fix      optimizer.lr=0.01" in lines
    assert any(line.startswith("  accuracy ▁") and line.endswith("  0.95 to 0.99") for line in lines)
    assert any(line.startswith("  loss     █") and line.endswith("  0.502 to 2") for line in lines)
    assert "    layers/1/dense  gradient spike at step 60" in lines
    assert lines[-1] == "  note: one thing is missing"
    assert max(map(len, lines)) <= 120


def test_ascii_alone(tmp_path):
    run = Reader(make_run(tmp_path / "é")).read()
    drawn = summarize(run, run.name, plain=True)
    assert drawn.isascii()
    assert not set(BLOCKS) & set(drawn)


def test_names_cannot_steer_the_terminal(tmp_path):
    run = Reader(evil_run(tmp_path / "a")).read()
    run = run._replace(alerts=[run.alerts[0] | {"layer": "\x1b[2J", "message": "\r\n", "fix": "a\nb"}])
    drawn = summaries([run, run], ["\x1b]0;x\x07", "b"])
    assert all(character.isprintable() or character == "\n" for character in drawn)
