"""`bench/device/buffers.py`: random data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.bench.device import buffers

DEVICE = jax.devices()[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int8"])
def test_values_are_spread_and_differ_with_the_seed(dtype):
    first, second = (
        np.asarray(buffers.random((64, 64), jnp.dtype(dtype), seed, DEVICE), np.float64) for seed in (0, 1)
    )
    low, high = (-128, 127) if dtype == "int8" else (-1, 1)
    assert low <= first.min() < 0.9 * low
    assert 0.9 * high < first.max() <= high
    assert abs(first.mean()) < 0.05 * high
    assert np.mean(first == second) < 0.1
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_zeros_for_the_contrast():
    assert not buffers.random((4,), jnp.float32, 0, DEVICE, "zeros").any()


def test_sets_hold_twice_the_cache(monkeypatch):
    monkeypatch.setattr(buffers, "last_cache_bytes", lambda: 1 << 28)
    monkeypatch.setattr(buffers, "memory_limit", lambda _: 1 << 32)
    assert len(buffers.sets(lambda i: i, 1 << 25, DEVICE)) == 16
    assert len(buffers.sets(lambda i: i, 1 << 10, DEVICE)) == buffers.MOST_SETS
    assert len(buffers.sets(lambda i: i, 1 << 33, DEVICE)) == 1
