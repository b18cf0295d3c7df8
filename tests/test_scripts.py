"""The scripts start, and the benchmark compares what it says it compares. No timing is asserted."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script):
    command = [sys.executable, str(script), "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=script.parent.parent)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ")


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS[0].parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return loaded("bench_step")


@pytest.fixture(scope="module", params=[1, 2], ids=lambda n: f"steps_per_call {n}")
def sides(bench, request):
    with jax.numpy_dtype_promotion("standard"):  # optax itself needs it, in the step by hand
        return bench.sides(bench.mlp(8, [4, 5, 3], 4), request.param)


def test_both_sides_have_taken_the_same_steps(sides):
    ours, hand, again = sides
    assert ours.calls == hand.calls == again.calls
    for a, b, c in zip(*(jax.tree.leaves(p) for p in (ours.state.params, hand.state[0], again.state[0])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(b, c)


def test_peak_memory_counts_what_is_held_once(sides):
    ours, hand, _ = sides
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((hand.state, hand.batch)))
    with jax.numpy_dtype_promotion("standard"):
        assert held <= hand.peak_bytes() < 2 * held + 20_000
        assert hand.peak_bytes() <= ours.peak_bytes() < 2 * held + 20_000


class Clock:
    """A side whose timings are given."""

    def __init__(self, *seconds):
        self.left = list(seconds)

    def time(self):
        return self.left.pop(0)


def test_compare_takes_the_median_of_paired_ratios(bench):
    ours, hand = Clock(2, 4, 1, 1, 3, 3, 9, 9), Clock(1, 1, 1, 1, 1, 1, 3, 3)
    ratio, low, high, ours_s, hand_s = bench.compare(ours, hand, 4)
    assert (ratio, ours_s, hand_s) == (3, 3, 1)  # ratios 3, 1, 3, 3
    assert low <= ratio <= high
    assert ours.left == hand.left == []


def test_compare_runs_abba(bench):
    order = []
    a, b = (type("Side", (), {"time": lambda self, name=name: order.append(name) or 1.0})() for name in "AB")
    bench.compare(a, b, 2)
    assert "".join(order) == "ABBAABBA"


def test_a_row_of_the_table_has_a_cell_a_column(bench, capsys):
    with jax.numpy_dtype_promotion("standard"):
        bench.report("tiny", bench.mlp(8, [4, 5, 3], 2), 2)
    assert len(capsys.readouterr().out.split("|")) == 2 + 6


# -- how long the path is -------------------------------------------------------------------------

SOURCE = '''"""A module."""

# A comment.
import os


def f():
    """Of two
    lines."""
    return os, """no
    docstring"""  # counted
'''


def test_lines_of_code_are_neither_blank_nor_comments_nor_docstrings():
    assert loaded("count_path").code_lines(SOURCE) == 4


def test_the_path_is_not_counted_where_the_package_is_imported_already(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxprop", object())
    with pytest.raises(RuntimeError, match="in a process of its own"):
        loaded("count_path").count()


def test_a_new_count_replaces_the_old_one_and_nothing_else(monkeypatch, tmp_path):
    script = loaded("count_path")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    guide = tmp_path / "CONTRIBUTING.md"
    guide.write_text(f"# Guide\n\n{script.HEADING}\n\nWords.\n\n| old |\n|---|\n\n## Next\n\n| kept |\n")
    frames = [script.Frame("a.py", 3, "f"), script.Frame("b.py", 9, "g")]
    counted = script.Count(frames, {"a.py": 1000, "b.py": 2, "c.py": 3})
    for _ in range(2):
        script.write(counted)
        told = guide.read_text()
        assert told == f"# Guide\n\n{script.HEADING}\n\nWords.\n\n{script.table(counted)}\n\n## Next\n\n| kept |\n"
    assert "| every file that has run, imports included | 3 | 1,005 |" in told
    assert "| files of the 2 frames on the stack | 2 | 1,002 |" in told


# -- the config reference -------------------------------------------------------------------------


def test_the_committed_config_reference_is_what_the_script_writes():
    script = loaded("make_config_reference")
    written = script.REFERENCE.read_text(encoding="utf-8")
    assert written == script.reference(), "write it anew: python scripts/make_config_reference.py"
