"""`bench/device/transfer.py`: copies between host and device."""

import jax
import numpy as np
import pytest

from jaxprop.bench.device import transfer

DEVICE = jax.devices()[0]


@pytest.mark.parametrize("prepare", [transfer._to_device, transfer._to_host])
def test_a_value_arrives(prepare):
    ready = prepare(4, DEVICE)
    found = ready.call(0)
    assert ready.check(found) == ""
    assert ready.check(np.asarray(found) + 1) != ""


def test_where_nothing_is_copied_there_is_no_bandwidth():
    with pytest.raises(NotImplementedError, match="nothing is copied"):
        transfer._to_host(1 << 20, DEVICE)


def test_both_directions_and_all_sizes():
    names = [job.name for job in transfer.jobs(DEVICE)]
    assert len(names) == len(set(names)) == 2 * len(transfer.SIZES)
