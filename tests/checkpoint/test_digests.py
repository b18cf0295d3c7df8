import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprop.checkpoint import digests
from jaxprop.checkpoint.digests import digest, sum_on_devices

MESH = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Auto))
NARROW = ["float32", "bfloat16", "float16", "int8", "uint8", "bool", "int32", "uint32", "int16", "complex64", "int4"]


def draw(dtype, shape):
    values = np.asarray(np.random.default_rng(0).normal(size=shape) * 3)
    return values.astype(getattr(ml_dtypes, dtype, dtype))


def on_devices(array):
    return tuple(np.asarray(sum_on_devices(array)).tolist())


@pytest.mark.parametrize("dtype", [*NARROW, "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_host_and_devices_give_the_same_number_on_any_mesh(dtype):
    for shape in ((), (3,), (8, 16), (2, 4, 3)):
        array = draw(dtype, shape)
        expected = digests._sum_host(array)
        assert on_devices(jnp.asarray(array)) == expected
        if len(shape) > 1:
            for spec in (PartitionSpec(), PartitionSpec("a", "b"), PartitionSpec(None, ("a", "b"))):
                if shape == (8, 16) or spec == PartitionSpec("a", "b"):
                    placed = jax.device_put(jnp.asarray(array), NamedSharding(MESH, spec))
                    assert tuple(np.asarray(digests._start(placed)).tolist()) == expected


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "complex128"])
def test_wide_types_too(dtype):
    array = draw(dtype, (5, 7))
    with jax.enable_x64(True):
        assert on_devices(jnp.asarray(array)) == digests._sum_host(array)


def test_blocks_and_threads_change_nothing(monkeypatch):
    array = draw("float32", (3, 1000))
    expected = digests._sum_host(array)
    monkeypatch.setattr(digests, "_BLOCK", 64)
    monkeypatch.setattr(digests, "_PART", 500)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert digests._sum_host(array) == expected == on_devices(jnp.asarray(array))


def test_the_number_is_that_of_the_formula():
    """As written in the docstring, with Python's integers."""
    array, total = np.array([1.5, -0.0, 3.25], np.float32), [0, 0]
    for i, word in enumerate(array.view(np.uint32).tolist()):
        h = (word + i * 0x9E3779B1) % 2**32
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        h ^= h >> 16
        total[0] += h
        h = h * 0x7FEB352D % 2**32
        h = (h ^ h >> 15) * 0x846CA68B % 2**32
        total[1] += h ^ h >> 16
    assert digest({"a": array})() == {"a": "".join(f"{part % 2**32:08x}" for part in total)}


def test_both_halves_are_bijections_of_an_element():
    """So that one changed element changes both sums: all 65,536 values of a type give as many sums."""
    values = np.arange(2**16, dtype=np.uint16)
    sums = [digests._sum_host(values[i : i + 1]) for i in range(0, 2**16, 7)]
    assert len({a for a, _ in sums}) == len({b for _, b in sums}) == len(sums)


def test_every_flipped_bit_is_found():
    array = draw("float32", (5, 9))
    whole = digest({"a": array})()
    for place, bit in itertools.product(range(0, 45, 4), range(32)):
        words = array.copy().view(np.uint32).reshape(-1)
        words[place] ^= np.uint32(1 << bit)
        assert digest({"a": words.view(np.float32).reshape(5, 9)})() != whole


@pytest.mark.parametrize("dtype", ["float32", "bool", "int8"])
def test_what_lies_elsewhere_is_found(dtype):
    array = draw(dtype, (64,))
    rolled, swapped, zeroed = np.roll(array, 1), array.copy(), array.copy()
    swapped[[0, 1]], zeroed[8:24] = swapped[[1, 0]], 0
    different = [one for one in (rolled, swapped, zeroed) if not np.array_equal(one, array)]
    assert len({*digest(dict(enumerate([array, *different])))().values()}) == 1 + len(different)


def test_an_array_that_is_donated_after_the_call_is_digested_as_it_was(monkeypatch):
    monkeypatch.setattr(digests, "_is_for_host", lambda array: False)
    kept = draw("float32", (300, 400))
    for _ in range(5):
        array = jnp.asarray(kept) + 0
        pending = digest({"a": array})
        array = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(array)
        jax.block_until_ready(array)
        assert pending() == {"a": "{:08x}{:08x}".format(*digests._sum_host(kept))}


def test_where_the_work_is_done():
    assert digests._is_for_host(np.zeros(3))
    assert digests._is_for_host(jax.device_put(jnp.zeros((8, 16)), NamedSharding(MESH, PartitionSpec("a"))))
