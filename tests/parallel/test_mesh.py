"""The mesh of devices."""

import jax
import pytest

from jaxprop.errors import UsageError
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
