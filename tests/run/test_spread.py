"""Lanes on several devices: where they lie. What they compute is tested in `tests/tools/sweep/test_sweep.py`."""

import jax
import numpy as np
import pytest

from jaxprop.run.spread import Spread


@pytest.mark.parametrize("on_host", [True, False])
def test_each_lanes_batch_is_copied_to_its_device_alone(on_host):
    spread = Spread(jax.devices()[2:5], 6)
    batches = [{"x": np.full((2, 3), i, np.float32)} for i in range(6)]
    given = batches if on_host else [jax.device_put(batch, jax.devices()[0]) for batch in batches]
    stacked = spread.stacked(given)["x"]
    np.testing.assert_array_equal(stacked, np.stack([batch["x"] for batch in batches]))
    held = {shard.device.id: np.asarray(shard.data)[:, 0, 0].tolist() for shard in stacked.addressable_shards}
    assert held == {2: [0, 1], 3: [2, 3], 4: [4, 5]}
    assert [spread.device(slot).id for slot in range(6)] == [2, 2, 3, 3, 4, 4]
