"""`bench/processes.py`: one measurement in several processes."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxprop.bench import document, processes
from jaxprop.bench.document import Document, Environment, Row
from jaxprop.errors import JaxpropError

HERE = Environment(devices=[{"kind": "cpu"}], host={"cpu": "any"}, versions={"jax": "1"}, flags={})


def measured(*rows, complete=True, notes=()):
    return Document(
        command="train", started="2026-11-27T18:00:00+00:00", environment=HERE, rows=[*rows], seconds=2.0,
        complete=complete, notes=[*notes],
    )  # fmt: skip


def step(*seconds, **facts):
    return Row(
        section="train", name="mlp", unit="ms", better="lower", value=1e3 * seconds[0], per_call=1e3,
        samples=[[one] for one in seconds], facts=facts,
    )  # fmt: skip


def test_rounds_of_all_processes_are_in_one_row():
    first = step(0.010, 0.012, mfu=0.5, batch=8, joules=2.0)
    second = step(0.014, 0.014, 0.014, mfu=0.3, batch=8, joules=3.0)
    (row,) = processes.merge([measured(first), measured(second)], 2).rows
    assert row.samples == [[0.010], [0.012], [0.014], [0.014], [0.014]]
    assert row.processes == [2, 3]
    assert row.value == pytest.approx(14.0)
    assert row.low <= row.value <= row.high
    assert row.facts == {"mfu": 0.4, "batch": 8, "joules": 5.0}


def test_rates_too():
    rows = [
        Row(section="matmul", name="a", unit="TFLOP/s", value=1.0, per_call=2.0, samples=[[2.0], [2.0]]),
        Row(section="matmul", name="a", unit="TFLOP/s", value=0.5, per_call=2.0, samples=[[4.0], [4.0], [4.0]]),
    ]
    (row,) = processes.merge([measured(row) for row in rows], 2).rows
    assert row.value == pytest.approx(0.5)
    assert row.low <= row.value <= row.high


def test_a_figure_that_failed_in_one_process_has_failed():
    lost = Row(section="train", name="mlp", status="failed", message="device is lost")
    (row,) = processes.merge([measured(step(1.0)), measured(lost)], 2).rows
    assert row == lost


@pytest.mark.parametrize(
    ("documents", "complete"),
    [
        ([measured(step(1.0)), measured(step(1.0))], True),
        ([measured(step(1.0))], False),
        ([measured(step(1.0)), measured(step(1.0), complete=False)], False),
    ],
)
def test_it_is_complete_if_all_are(documents, complete):
    found = processes.merge(documents, 2)
    assert found.complete == complete
    assert found.arguments["processes"] == 2
    assert found.seconds == 2.0 * len(documents)


@pytest.fixture
def children(monkeypatch):
    """Stands for the processes: each takes its exit code, and leaves a document unless that is None."""
    commands, plan = [], []

    def run(command, **_):
        commands.append(command)
        code, found = plan.pop(0)
        if found is not None:
            document.write(command[-1], found)
        if isinstance(code, BaseException):
            raise code
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(subprocess, "run", run)
    return commands, plan


def test_each_process_is_the_command_itself(children):
    commands, plan = children
    plan += [(0, measured(step(1.0)))] * 3
    found, code = processes.measure_apart(["train", "mlp"], 3, lambda _: None)
    assert code == 0
    assert found.rows[0].processes == [1, 1, 1]
    assert commands[0][:6] == [sys.executable, "-m", "jaxprop", "bench", "train", "mlp"]


def test_after_an_interrupt_no_further_process_is_started(children):
    commands, plan = children
    plan += [(0, measured(step(1.0))), (KeyboardInterrupt(), measured(step(1.0), complete=False))]
    found, code = processes.measure_apart(["train", "mlp"], 5, lambda _: None)
    assert (len(commands), code, found.complete) == (2, 130, False)
    assert found.rows[0].processes == [1, 1]


def test_where_nothing_was_measured_it_says_so(children):
    _, plan = children
    plan += [(2, None)]
    with pytest.raises(JaxpropError, match="nothing was measured"):
        processes.measure_apart(["train", "mlpp"], 2, lambda _: None)


def test_the_merged_document_is_one_of_the_schema(tmp_path):
    merged = processes.merge([measured(step(1.0)), measured(step(1.1))], 2)
    document.write(tmp_path / "a.json", merged)
    assert document.read(tmp_path / "a.json") == merged
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["processes"] == [1, 1]
