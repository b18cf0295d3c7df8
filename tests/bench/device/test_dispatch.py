"""`bench/device/dispatch.py`: what a call costs."""

import jax
import pytest

from jaxprop.bench.device import dispatch

JOBS = list(dispatch.jobs(jax.devices()[0]))


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_every_call_is_made(job):
    ready = job.prepare()
    for i in range(3):
        found = ready.call(i)
    assert ready.check(found) == ""
    assert ready.check(found - 1) != ""
