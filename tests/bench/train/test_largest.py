"""`bench/train/largest.py`: the largest batch that fits."""

import jax
import pytest

from jaxprop.bench.train import largest
from jaxprop.bench.train.workloads import config_of
from jaxprop.errors import JaxpropError

DEVICE = jax.devices()[0]
CONFIG = config_of("mlp")


@pytest.fixture
def memory(monkeypatch):
    """A device of 1,000 bytes, on which a step takes 100 and 7 an example."""
    monkeypatch.setattr(largest, "memory_limit", lambda _: 1000)
    monkeypatch.setattr(largest, "_planned", lambda _, batch: 100 + 7 * batch)
    monkeypatch.setattr(largest, "_runs", lambda *_: True)


def test_it_fills_the_memory(memory):
    assert largest.find_largest(CONFIG, DEVICE) == 112  # (920 - 100) / 7 = 117, as a multiple of 8


def test_one_that_does_not_run_is_made_smaller(memory, monkeypatch):
    monkeypatch.setattr(largest, "_runs", lambda _, batch: batch <= 90)
    assert largest.find_largest(CONFIG, DEVICE) == 80


def test_a_plan_that_is_not_straight_is_tried_again(memory, monkeypatch):
    monkeypatch.setattr(largest, "_planned", lambda _, batch: 100 + 7 * batch + (batch > 100) * 50)
    found = largest.find_largest(CONFIG, DEVICE)
    assert 80 <= found <= 112
    assert 100 + 7 * found + (found > 100) * 50 <= 920


def test_what_does_not_fit_at_all_is_said(memory, monkeypatch):
    monkeypatch.setattr(largest, "_planned", lambda _, batch: 5000 + batch)
    with pytest.raises(JaxpropError, match="not even a batch of 1 fits"):
        largest.find_largest(CONFIG, DEVICE)


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
