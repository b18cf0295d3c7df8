"""`bench/train/peaks.py`: what the device itself reaches."""

import jax
import pytest

from jaxprop.bench.device import matmul, memory
from jaxprop.bench.train import peaks


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_roofs(precision, monkeypatch):
    monkeypatch.setattr(matmul, "SIZES", (32, 64))
    monkeypatch.setattr(matmul, "SHAPES", ())
    monkeypatch.setattr(memory, "SIZES", (1 << 15, 1 << 17))
    monkeypatch.setattr(peaks, "PLAN", peaks.PLAN._replace(seconds=0, burst=0.005))
    rows = []
    found = peaks.measure_peaks(precision, jax.devices()[0], rows.append)
    assert found.tflops == max(row.value for row in rows if row.section == "matmul")
    assert found.bandwidth == next(row.value for row in rows if row.section == "memory")
    assert {row.facts["dtype"] for row in rows if row.section == "matmul"} == {precision}
