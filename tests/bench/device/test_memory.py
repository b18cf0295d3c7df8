"""`bench/device/memory.py`: the operations, their checks, and the bytes that they move."""

import re

import jax
import pytest

from jaxprop.bench.device import memory

DEVICE = jax.devices()[0]


@pytest.mark.parametrize("turns", [1, 5])
@pytest.mark.parametrize("name", memory.OPERATIONS)
def test_each_operation_does_what_it_says(name, turns):
    operation = memory.OPERATIONS[name]
    ready = memory.prepare(operation, 1 << 15, turns, DEVICE)
    assert ready.check(ready.call(0)) == ""
    again = memory.prepare(operation, 1 << 15, turns, DEVICE)
    assert again.check(again.call(0) + 1) != ""


@pytest.mark.parametrize("turns", [1, 4])
def test_a_copy_is_made_once_a_turn(turns):
    """The compiler neither leaves it out nor makes one more."""
    length = 1 << 12
    program = memory._program(memory.OPERATIONS["copy"], turns)
    x = jax.ShapeDtypeStruct((length,), "float32")
    text = program.lower(x, x, jax.ShapeDtypeStruct((), "float32")).compile().as_text()
    assert len(re.findall(rf"= f32\[{length}\]\S* copy\(", text)) == 1


def test_sizes_grow_and_the_bytes_are_those_of_a_call():
    jobs = {job.name: job for job in memory.jobs(DEVICE)}
    small, large = jobs["triad 32 KiB"], jobs["triad 512 MiB"]
    assert small.facts["turns"] == memory.LOOPED // (1 << 15)
    assert small.per_call == pytest.approx(1.5 * memory.LOOPED / 1e9)
    assert large.per_call == pytest.approx(1.5 * (1 << 29) / 1e9)
    assert jobs["copy 32 KiB"].per_call == pytest.approx(memory.LOOPED / 1e9)
    assert jobs["scale 32 KiB"].per_call == pytest.approx(2 * memory.LOOPED / 1e9)
