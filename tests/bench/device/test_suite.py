"""`bench/device/suite.py`: the whole command, on small sizes."""

import jax
import pytest

from jaxprop.bench.device import collectives, matmul, memory, suite, transfer
from jaxprop.bench.document import Row
from jaxprop.bench.rounds import Plan
from jaxprop.bench.session import Session
from jaxprop.errors import UsageError

PLAN = Plan(seconds=0.0, burst=0.005, longest=10.0)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(suite, "WARM_UP", 0.0)
    monkeypatch.setattr(suite.telemetry, "busy", lambda _: "")
    monkeypatch.setattr(matmul, "SIZES", (32,))
    monkeypatch.setattr(matmul, "SHAPES", ())
    monkeypatch.setattr(memory, "SIZES", (1 << 15,))
    monkeypatch.setattr(memory, "LOOPED", 1 << 16)
    monkeypatch.setattr(transfer, "SIZES", {"4 B": 4})
    monkeypatch.setattr(collectives, "SIZES", (1 << 12,))


def measured(devices, options):
    session = Session("device", {}, devices, None, lambda _: None)
    suite.run(session, devices, options)
    return session.close(complete=True)


def test_every_section_has_its_figures(small):
    found = measured(jax.devices()[:1], suite.Options(plan=PLAN, sustain=0.1, contrast=True))
    sections = {row.section for row in found.rows if row.value}
    assert sections == {
        "matmul", "matmul of zeros", "memory", "transfer", "dispatch", "compile", "numpy", "sustained",
    }  # fmt: skip
    sustained = next(row for row in found.rows if row.section == "sustained")
    assert sustained.facts["of_burst"] > 0
    assert any("JAX is" in note and "NumPy multiplies with" in note for note in found.notes)


def test_only_what_is_asked_for(small):
    found = measured(jax.devices()[:1], suite.Options(sections=("dispatch",), plan=PLAN))
    assert {row.section for row in found.rows} == {"dispatch"}


def test_all_devices_by_themselves_and_together(small):
    found = measured(jax.devices()[:2], suite.Options(sections=("matmul", "collectives"), plan=PLAN, sustain=0))
    assert {row.device for row in found.rows if row.section == "matmul"} == {"0", "1"}
    assert {row.device for row in found.rows if row.section == "collectives"} == {"all"}


def test_the_odd_device_is_named(small):
    document = measured(jax.devices()[:1], suite.Options(sections=("dispatch",), plan=PLAN))
    rows = [
        Row(section="matmul", name="bfloat16", unit="TFLOP/s", device=str(i), value=value)
        for i, value in enumerate([100.0, 101.0, 80.0, 99.0])
    ]
    (sentence,) = suite.odd_ones(document.model_copy(update={"rows": rows}))
    assert sentence == "device 2 is slower than the others: matmul bfloat16 (-20%)"
    assert suite.odd_ones(document.model_copy(update={"rows": rows[:2]})) == []


def test_repeats_that_differ_are_said(monkeypatch):
    assert suite._repeats(jax.devices()[:2]) == []
    digests = iter("abcdef")
    monkeypatch.setattr(suite, "_digest", lambda _: next(digests))
    assert suite._repeats(jax.devices()[:1]) == ["device 0: the same program gave other bits in 3 repeats"]


def test_devices_are_chosen_by_number(small):
    assert suite.choose("3") == [jax.devices()[3]]
    assert suite.choose("all") == jax.devices()
    for word in ("99", "-1", "gpu"):
        with pytest.raises(UsageError, match="expected a number below 8 or `all`"):
            suite.choose(word)
