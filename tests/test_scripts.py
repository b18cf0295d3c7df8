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


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_step", SCRIPTS[0].parent / "bench_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
