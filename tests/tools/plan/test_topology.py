"""`tools/plan/topology.py`: which devices there are to plan for, and what is said of those that there are not."""

import importlib.util
import math

import pytest

from jaxprop.errors import JaxpropError, MissingExtraError, UsageError
from jaxprop.tools.plan import topology
from jaxprop.tools.plan.topology import TPUS, gpu, host, known_shape, smaller, tpu

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")


@pytest.mark.parametrize("name", TPUS)
def test_there_is_a_slice_of_every_power_of_two(name):
    for power in range(9):
        sizes = [int(size) for size in known_shape(name, 2**power).split("x")]
        assert math.prod(sizes) == 2**power
        assert len(sizes) == TPUS[name].axes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("v5", "unknown TPU generation 'v5'; did you mean 'v5"),
        ("v6:2x2", "did you mean 'v6e'"),
        ("h100:8", "for GPUs write --gpu h100:8"),
        ("v5e", "expected chips along 2 axes, such as v5e:4x4, got 'v5e'"),
        ("v5p:4x4", "expected chips along 3 axes, such as v5p:"),
        ("v5e:3x5", "no slice of v5e has the shape 3x5; the nearest is v5e:2x4"),
        ("v6e:32x16", "v6e:32x16 has 512 chips, and a slice of v6e has at most 256; use --slices"),
        ("v5e:0x4", "no slice of v5e has the shape 0x4"),
    ],
)
def test_a_topology_that_does_not_exist(text, told):
    with pytest.raises(UsageError) as caught:
        tpu(text)
    assert told in str(caught.value)


def test_without_the_compiler_the_install_line_is_told(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jax\[tpu\]'"):
        tpu("v5e:2x2")


def test_gpus_stand_in_on_this_host():
    found = gpu("h100:4")
    assert (found.chips, found.platform, found.sheet.tflops["bfloat16"]) == (4, "gpu", 989.5)
    assert smaller(found, 2).name == "h100:2"


@pytest.mark.parametrize(
    ("text", "told"),
    [("h10:8", "did you mean 'h100'"), ("h100", "such as h100:8"), ("h100:0", "such as h100:8")],
)
def test_gpus_that_do_not_exist(text, told):
    with pytest.raises(UsageError, match=told):
        gpu(text)


def test_devices_of_this_host():
    assert (host(8).chips, host(1).name, smaller(host(8), 4).chips) == (8, "1 host device", 4)
    with pytest.raises(JaxpropError, match="jax has started with 8 host devices"):
        host(16)


@needs_libtpu
def test_chips_of_tpus():
    assert tpu("v5e:4x4").chips == 16
    assert tpu("v4:2x2x1").chips == 4  # not its cores
    two = tpu("v6e:2x2", 2)
    assert (two.chips, two.name, two.generation.kind) == (8, "2 x v6e:2x2", "TPU v6 lite")
    assert [device.slice_index for device in two.devices] == [0] * 4 + [1] * 4
    assert (smaller(two, 1).chips, smaller(tpu("v5e:2x2"), 512).slices) == (1, 2)


@needs_libtpu
def test_a_generation_that_this_libtpu_does_not_know():
    with pytest.raises(UsageError, match=r"does not know v7x; install a newer one"):
        tpu("v7x:2x2x1")
