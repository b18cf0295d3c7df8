"""The mesh of devices."""

from types import SimpleNamespace

import jax
import pytest

from jaxprop.errors import UsageError
from jaxprop.parallel import mesh as meshes
from jaxprop.parallel.mesh import make_mesh


@pytest.mark.parametrize(("devices", "size"), [(None, 8), (1, 1), (3, 3), (8, 8)])
def test_a_mesh_takes_the_first_local_devices(devices, size):
    mesh = make_mesh(devices)
    assert mesh.axis_names == ("data",)
    assert list(mesh.devices.flat) == jax.local_devices()[:size]


def test_a_mesh_of_chosen_devices():
    chosen = jax.local_devices()[2:4]
    assert list(make_mesh(chosen).devices.flat) == chosen


@pytest.mark.parametrize("devices", [0, -1, 9, 99])
def test_devices_there_are_not(devices):
    with pytest.raises(UsageError, match=f"between 1 and 8, those that are here, got {devices}"):
        make_mesh(devices)


SLICED = [
    {"data": 8}, {"data": 2, "fsdp": 4}, {"data": 4, "fsdp": 2}, {"data": 1, "fsdp": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
]  # fmt: skip


@pytest.mark.parametrize("sizes", SLICED, ids=str)
def test_what_lies_on_one_slice_stays_together(sizes):
    """The first axes cross the network between slices, whether or not `data` has a part for each."""
    kind = {"platform": "tpu", "device_kind": "TPU v5 lite", "process_index": 0, "core_on_chip": 0}
    devices = [SimpleNamespace(id=i, slice_index=i % 4, coords=[i // 4, 0, 0], **kind) for i in range(8)]
    arranged = meshes._arranged(devices, sizes)
    assert arranged.shape == tuple(sizes.values())
    assert [device.slice_index for device in arranged.flat] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {device.id for device in arranged.flat} == set(range(8))
