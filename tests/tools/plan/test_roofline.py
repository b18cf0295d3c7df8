"""`tools/plan/roofline.py`: what bounds a step, and which network a collective uses."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxprop.core.datasheet import sheet_of_kind
from jaxprop.tools.plan.account import Account, Collective
from jaxprop.tools.plan.roofline import DCN, ICI, NETWORK, NVLINK, estimate
from jaxprop.tools.plan.topology import Target

V5E = sheet_of_kind("TPU v5 lite")


def chips(width, height, slices=1):
    return tuple(
        SimpleNamespace(coords=[x, y, 0], slice_index=i if slices > 1 else None)
        for i in range(slices)
        for x in range(width)
        for y in range(height)
    )


def tpu(width, height, slices=1):
    return Target(f"v5e:{width}x{height}", "tpu", chips(width, height, slices), V5E, (width, height), slices)


def collective(kind, groups, size):
    groups = np.array(groups)
    share = (groups.shape[1] - 1) / groups.shape[1] * (2 if kind == "all-reduce" else 1)
    return Collective(kind, ("data",), groups.shape[1], 1, size, size * share, groups)


def test_the_longest_is_the_bound():
    target = tpu(2, 2)
    found = estimate(Account(197e12, 819e6, (), 0), 4 * 0.5 * 197e12, target, target.devices, "bfloat16")
    assert (found.compute, found.memory) == (pytest.approx(1.0), pytest.approx(1e-3))
    assert (found.low, found.high, found.bound) == (found.compute, found.compute, "compute")
    assert found.mfu == (pytest.approx(0.5), pytest.approx(0.5))


def test_with_and_without_overlap():
    target = tpu(1, 2)
    one = collective("all-gather", [[0, 1]], 100e9)  # 50 GB over one link of 50 GB/s
    found = estimate(Account(197e12, 0, (one,), 0), 0.0, target, target.devices, "bfloat16")
    assert found.links == {ICI: pytest.approx(1.0)}
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(2.0))


@pytest.mark.parametrize(
    ("target", "groups", "bandwidth"),
    [
        (tpu(2, 4), [list(range(8))], 100e9),  # open along both axes: one link along each
        (tpu(16, 16), [list(range(16))], 100e9),  # one closed axis: both of its links
        (tpu(16, 16), [list(range(256))], 200e9),  # both axes closed
        (tpu(16, 16), [[0, 1, 2, 3]], 50e9),  # a part of an axis is no ring
    ],
)
def test_the_links_of_a_torus(target, groups, bandwidth):
    one = collective("all-gather", groups, 1e9)
    found = estimate(Account(0, 0, (one,), 0), 0.0, target, target.devices, "bfloat16")
    assert found.links[ICI] == pytest.approx(one.sent / bandwidth)


def test_between_slices_the_slow_network_counts():
    target = tpu(2, 2, slices=2)
    one = collective("all-reduce", [list(range(8))], 8e9)
    found = estimate(Account(0, 0, (one,), 0), 0.0, target, target.devices, "bfloat16")
    # Within a slice of four, 3/4 of twice 8 GB; between the two, half of twice the quarter that a chip holds.
    assert found.links[ICI] == pytest.approx(12e9 / 100e9)
    assert found.links[DCN] == pytest.approx(2e9 / 3.125e9)
    assert found.bound == DCN


def test_gpus_of_one_host_and_of_two():
    sheet = sheet_of_kind("NVIDIA H100 80GB HBM3")
    target = Target("h100:16", "gpu", tuple(range(16)), sheet, (16,))
    within = collective("all-gather", [list(range(8)), list(range(8, 16))], 8e9)
    across = collective("all-gather", [[0, 8]], 8e9)
    found = estimate(Account(0, 0, (within,), 0), 0.0, target, target.devices, "bfloat16")
    assert found.links == {NVLINK: pytest.approx(7e9 / 450e9)}
    found = estimate(Account(0, 0, (across,), 0), 0.0, target, target.devices, "bfloat16")
    assert found.links == {NETWORK: pytest.approx(4e9 / 50e9)}


def test_of_a_host_nothing_is_known():
    target = Target("2 host devices", "host", (0, 1), None, (2,))
    assert estimate(Account(1, 1, (), 0), 1.0, target, target.devices, "float32") is None
