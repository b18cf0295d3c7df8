"""Batches that are left out: the run is that without them, and each is told by its examples."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.data import Source, Stream
from jaxprop.run.quarantine import LISTED, Quarantine, nonfinite
from tests.benches import Bench, Poisoned

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("batch", "rows", "holds"),
    [
        ({"inputs": np.ones((3, 2, 2), np.float32), "labels": np.arange(3)}, [], ""),
        ({"inputs": np.array([[0, 1], [NAN, 1], [2, 2]])}, [1], "NaN in inputs"),
        ({"inputs": np.array([[0, 1], [1, 1], [-INF, INF]])}, [2], "infinity in inputs"),
        ({"inputs": np.array([1, INF]), "weight": np.array([NAN, 1])}, [0, 1], "infinity in inputs and NaN in weight"),
        ({"inputs": jnp.array([[1.0], [NAN]], jnp.bfloat16)}, [1], "NaN in inputs"),
        ({"inputs": np.zeros((2, 0), np.float32)}, [], ""),
        ({"inputs": np.array([1 + 1j, complex(0, NAN)])}, [1], "NaN in inputs"),
        ({"x": {"y": np.array([NAN, 0])}}, [0], "NaN in x/y"),
    ],
)
def test_rows_that_are_not_finite(batch, rows, holds):
    found = nonfinite(batch)
    assert (found.rows.tolist(), found.holds) == (rows, holds)


def left_out(batch, *, names=None, loss=NAN, scaled=False, length=6):
    """The line on the second of two batches of 4 examples in order, the last two of which only pad."""
    stream = Stream(Source(length, lambda i: {"inputs": i}, {}, "", names=names), 4, seed=0, shuffle=False)
    quarantine = Quarantine(stream, 1, scaled=scaled)
    for step in (1, 2):
        next(stream)
        quarantine.take(step, 1, batch, stream.state())
    assert quarantine.read(1, SimpleNamespace(skipped=0.0, loss=1.0)) is None
    return quarantine.read(2, SimpleNamespace(skipped=1.0, loss=loss))


def test_the_line_on_one_example():
    line = left_out({"inputs": np.array([1, NAN, 1, NAN])}, names=lambda i: [f"a.csv:{n}" for n in i.tolist()])
    assert line == {
        "step": 2, "kind": "quarantine", "layer": None, "severity": "advice", "value": 2.0, "threshold": None,
        "since": 2, "rows": [1, 3], "epoch": 0, "batch": 1, "examples": [5], "names": ["a.csv:5"],
        "message": "left out the batch of step 2, which changed nothing: a.csv:5: NaN in inputs; repair or remove it",
    }  # fmt: skip


def test_the_line_on_several():
    line = left_out({"inputs": np.full(4, INF)}, length=8)
    assert (line["rows"], line["examples"], "names" in line) == ([0, 1, 2, 3], [4, 5, 6, 7], False)
    assert line["message"].endswith(
        ": example 4, example 5, example 6 (and 1 more): infinity in inputs; repair or remove them"
    )


def test_a_batch_that_is_finite_is_told_as_a_whole():
    line = left_out({"inputs": np.ones(4)})
    assert (line["rows"], line["examples"]) == ([], [4, 5])
    assert line["message"].endswith("its arrays are finite (batch 1 of epoch 0), and loss or gradients are not")


def test_steps_that_find_the_loss_scale_are_no_fault_of_a_batch():
    assert left_out({"inputs": np.ones(4)}, scaled=True, loss=0.5) is None
    assert left_out({"inputs": np.ones(4)}, scaled=True, loss=NAN) is not None
    assert left_out({"inputs": np.array([1, 1, 1, NAN])}, scaled=True, loss=0.5) is not None


def test_of_batches_without_a_source_rows_are_told():
    quarantine = Quarantine(iter([]), 1)
    quarantine.take(1, 1, {"x": np.full((LISTED + 9, 2), NAN)}, {})
    line = quarantine.read(1, SimpleNamespace(skipped=1.0, loss=NAN))
    assert (len(line["rows"]), "examples" in line) == (LISTED, False)
    assert f"row 0, row 1, row 2 (and {LISTED + 6} more): NaN in x" in line["message"]


def test_a_call_that_is_held_no_more_is_not_told():
    quarantine = Quarantine(iter([]), 1)
    for step in range(1, 7):
        quarantine.take(step, 1, {"x": np.full(2, NAN)}, {})
    assert quarantine.read(2, SimpleNamespace(skipped=1.0, loss=NAN)) is None
    assert quarantine.read(3, SimpleNamespace(skipped=1.0, loss=NAN)) is not None


@pytest.mark.parametrize(
    "run", [{}, {"steps": None, "epochs": 3, "steps_per_call": 4, "log_every": 4}], ids=["one a call", "4 a call"]
)
def test_a_run_tells_what_it_left_out_also_when_it_is_resumed(run, tmp_path):
    """Wherever it is stopped. The whole batch is poisoned, so what is told is the batch itself."""
    bench = Bench({"run": run})
    bad = {2, 5, 6, 11}  # the 6th is the last of its epoch, which is padded

    def told(folder, stops):
        folder.mkdir()
        for stop_at in stops:
            done = bench.train(folder, stop_at=stop_at, stream=stream(bench, bad))
        return done, [line for line in done.alerts if line["kind"] == "quarantine"]

    whole, lines = told(tmp_path / "whole", [None])
    assert [line["step"] for line in lines] == [3, 6, 7, 12]
    assert [(line["epoch"], line["batch"]) for line in lines] == [(0, 2), (0, 5), (1, 0), (1, 5)]
    clean = stream(bench, set())
    for number, line in zip(range(14), [None, None, lines[0], None, None, lines[1], lines[2]], strict=False):
        labels = next(clean)["labels"]
        if line is not None:
            source = bench.experiment.sources["train"]
            assert (
                source.take(np.array(line["examples"]))["labels"].tolist() == labels[: len(line["examples"])].tolist()
            )
            assert len(line["examples"]) == (237 if number == 5 else 240)
    for stop_at in (4, 8, 12):
        again, lines_again = told(tmp_path / str(stop_at), [stop_at, None])
        assert lines_again == lines
        assert int(again.loop.state.health.skips) == int(whole.loop.state.health.skips) == 4


class stream(Poisoned):
    """The poisoned stream, which knows its examples."""

    def drawn(self, state, back):
        return self._stream.drawn(state, back)
