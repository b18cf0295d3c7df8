"""`bench/train/largest.py`: the largest batch that fits."""

import jax
import pytest

from jaxprop.bench.train import largest
from jaxprop.bench.train.workloads import config_of
from jaxprop.config.load import load
from jaxprop.errors import JaxpropError

DEVICE = jax.devices()[0]
CONFIG = config_of("mlp", parallel={"devices": 1})


@pytest.fixture
def memory(monkeypatch):
    """A device of 1,000 bytes, on which a step takes 100 and 7 an example."""
    monkeypatch.setattr(largest, "memory_limit", lambda _: 1000)
    monkeypatch.setattr(largest, "_runs", lambda *_: True)
    plan(monkeypatch, lambda batch: 100 + 7 * batch)


def plan(monkeypatch, planned):
    monkeypatch.setattr(largest, "_planned", lambda _, batch: planned(batch))


def from_(batch, **run):
    return config_of("mlp", parallel={"devices": 1}, data={"batch_size": batch}, run=run)


@pytest.mark.parametrize("start", [1, 2, 32, 256, 5000])
def test_it_fills_the_memory_from_wherever_it_begins(memory, start):
    assert 114 <= largest.find_largest(from_(start), DEVICE) <= 117  # (920 - 100) / 7


def test_a_plan_that_is_flat_at_first(memory, monkeypatch):
    plan(monkeypatch, lambda batch: max(300 - batch, 200, 9 * batch))
    assert 100 <= largest.find_largest(from_(1), DEVICE) <= 102


def test_one_that_does_not_run_is_made_smaller(memory, monkeypatch):
    monkeypatch.setattr(largest, "_runs", lambda _, batch: batch <= 90)
    assert 80 <= largest.find_largest(CONFIG, DEVICE) <= 90


def test_what_does_not_fit_at_all_is_said_with_what_it_takes(memory, monkeypatch):
    plan(monkeypatch, lambda batch: 5e9 + batch)
    with pytest.raises(JaxpropError, match=r"not even a batch of 1 fits.* takes 4.7 GiB"):
        largest.find_largest(CONFIG, DEVICE)


def test_a_batch_is_a_multiple_of_microbatches_and_devices(memory):
    config = config_of("mlp", parallel={"devices": 4}, data={"batch_size": 12}, run={"accumulate": 3})
    found = largest.find_largest(config, DEVICE)
    assert found % 12 == 0
    assert found >= 108


def test_no_more_than_the_examples_there_are(memory, monkeypatch):
    plan(monkeypatch, lambda batch: 0.001 * batch)
    digits = load("digits_mlp", ("parallel.devices=1",)).config
    assert largest.find_largest(digits, DEVICE) == 1437


def test_several_steps_in_a_call_are_planned_as_one():
    config = from_(8, steps_per_call=5)
    assert largest._planned(config, 8) == largest._planned(from_(8), 8)


def test_a_device_that_does_not_say_its_memory(monkeypatch):
    monkeypatch.setattr(largest, "memory_limit", lambda _: None)
    monkeypatch.setattr(largest, "available_bytes", lambda: None)
    with pytest.raises(JaxpropError, match="does not say how much memory it has"):
        largest.find_largest(CONFIG, DEVICE)


def test_out_of_memory_is_no_and_other_errors_go_through(monkeypatch):
    def fails(error):
        def make(*_, **__):
            raise error

        monkeypatch.setattr(largest, "make", make)

    fails(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    assert not largest._runs(CONFIG, 8)
    fails(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        largest._runs(CONFIG, 8)
