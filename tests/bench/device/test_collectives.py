"""`bench/device/collectives.py`: over the 8 devices of the tests."""

import jax
import numpy as np
import pytest

from jaxprop.bench.device import collectives

DEVICES = jax.devices()[:4]
SMALL = [job for job in collectives.jobs(DEVICES) if job.name.endswith(" 4 KiB")]


@pytest.mark.parametrize("job", SMALL, ids=[job.name for job in SMALL])
def test_each_is_checked(job):
    ready = job.prepare()
    found = ready.call(0)
    assert ready.check(found) == ""
    assert ready.check(np.asarray(found) + 1) != ""


def test_none_on_a_single_device():
    assert list(collectives.jobs(DEVICES[:1])) == []


def test_the_bus_carries_what_the_ring_needs():
    factors = {job.name.split(" ")[0]: job.facts["bus_factor"] for job in SMALL}
    assert factors["all-reduce"] == 1.5
    assert factors["all-gather"] == factors["reduce-scatter"] == factors["all-to-all"] == 0.75
    assert collectives.bus_bandwidth(2.0, {"bus_factor": 1.5}) == 3.0
