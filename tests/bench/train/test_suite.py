"""`bench/train/suite.py`: configurations by precisions by batch sizes."""

import jax
import pytest

from jaxprop.bench.rounds import Plan
from jaxprop.bench.session import Session
from jaxprop.bench.train import parts, suite
from jaxprop.bench.train.peaks import Peaks
from jaxprop.bench.train.workloads import config_of
from jaxprop.errors import JaxpropError

SMALL = config_of("mlp", data={"shape": [6], "batch_size": 8}, model={"hidden": [5]}, parallel={"devices": 1})
TEXT = config_of(
    "gpt_10m",
    data={"shape": [8], "vocabulary": 16, "batch_size": 2},
    model={"layers": 1, "width": 8, "heads": 2},
    parallel={"devices": 1},
)
PLAN = Plan(seconds=0.0, burst=0.01, longest=float("inf"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(suite, "WARM_UP", 0.0)
    monkeypatch.setattr(suite, "WAITED", 3)
    monkeypatch.setattr(suite.telemetry, "busy", lambda _: "")
    monkeypatch.setattr(suite, "measure_peaks", lambda *_: Peaks(0.5, 10.0))
    monkeypatch.setattr(parts, "PLAN", PLAN)


def measured(targets, **options):
    session = Session("train", {}, jax.devices()[:1], None, lambda _: None)
    suite.run(session, targets, suite.Options(plan=PLAN, **options), lambda _: None)
    return {row.name: row for row in session.document.rows}


def test_a_step_has_its_figures():
    found = measured([("small", TEXT)])
    row = found["small float32 batch 2"]
    seconds = row.value / 1e3
    assert row.facts["examples_per_s"] == pytest.approx(2 / seconds, rel=0.01)
    assert row.facts["tokens_per_s"] == pytest.approx(16 / seconds, rel=0.01)
    assert row.facts["mfu"] == pytest.approx(row.facts["flops_formula"] / seconds / 0.5e12, rel=0.01, abs=1e-4)
    assert row.facts["signals_cost"] == pytest.approx(
        row.value / found["small float32 batch 2, health off"].value, rel=0.01
    )
    for name in ("host_us", "data_wait_us", "planned_bytes", "compile_cold_s", "compile_warm_s", "products_share"):
        assert row.facts[name] > 0
    assert any(name.startswith("small float32 batch 2: dot ") for name in found)


def test_precisions_by_batches():
    found = measured([("small", SMALL)], precisions=("float32", "bfloat16"), batches=(4, 16), roofline=False)
    assert [name for name in found if not name.endswith("off")] == [
        f"small {precision} batch {batch}" for precision in ("float32", "bfloat16") for batch in (4, 16)
    ]
    assert found["small bfloat16 batch 16"].facts["batch"] == 16


def test_the_largest_batch(monkeypatch):
    monkeypatch.setattr(suite, "find_largest", lambda *_: 24)
    assert "small float32 batch 24 (largest)" in measured([("small", SMALL)], batches=(0,), roofline=False)


def test_what_does_not_fit_is_a_row_and_the_others_go_on(monkeypatch):
    make = suite.make

    def full(config):
        if config.data.batch_size == 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return make(config)

    monkeypatch.setattr(suite, "make", full)
    found = measured([("small", SMALL)], batches=(16, 4), roofline=False)
    assert found["small float32 batch 16"].status == "out_of_memory"
    assert found["small float32 batch 4"].value > 0


def test_targets_are_workloads_or_files(tmp_path):
    assert [name for name, _ in suite.targets_of(["mlp", "digits_mlp"])] == ["mlp", "digits_mlp"]
    assert suite.targets_of(["digits_mlp"], ["data.batch_size=32"])[0][1].data.batch_size == 32
    with pytest.raises(JaxpropError, match="overrides are of a YAML file"):
        suite.targets_of(["mlp"], ["data.batch_size=32"])
    with pytest.raises(JaxpropError, match="mlpp"):
        suite.targets_of(["mlpp"])


def test_where_nothing_could_be_measured_the_error_is_raised(monkeypatch):
    def full(_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(suite, "make", full)
    with pytest.raises(RuntimeError, match="Out of memory"):
        measured([("small", SMALL)], batches=(16, 4), roofline=False)


def test_a_rate_that_is_noisy_is_said(monkeypatch):
    monkeypatch.setattr(suite, "measure_peaks", lambda *_: Peaks(0.5, 10.0, noise=0.3))
    session = Session("train", {}, jax.devices()[:1], None, lambda _: None)
    suite.run(session, [("small", SMALL)], suite.Options(plan=PLAN, roofline=False), lambda _: None)
    assert "the device's own rate in float32 is uncertain by 30%, and so is each MFU" in session.document.notes


def test_steps_are_taken_one_after_the_other_with_and_without_signals():
    made = suite.make(SMALL, twice=False)
    stepper = suite._Stepper(made)
    stepper.compile_without_signals(made.experiment.config)
    before = int(stepper.usual(0))
    assert [int(stepper.lean(1)), int(stepper.usual(2))] == [before + 1, before + 2]
