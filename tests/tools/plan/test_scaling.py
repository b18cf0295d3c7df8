"""`tools/plan/scaling.py`: the same share of the batch on ever more devices."""

import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.run import Mesh
from jaxprop.tools.plan.scaling import scaled_batch, scaled_mesh, scaling, sizes
from jaxprop.tools.plan.subject import Subject
from jaxprop.tools.plan.topology import gpu, host

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "random", "shape": [64], "batch_size": 16},
    "model": {"name": "mlp", "hidden": [64]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "parallel": {"mesh": {"fsdp": -1}},
    "run": {"steps": 1},
}


def mesh(**sizes):
    return Mesh(**{"fsdp": 1, "sequence": 1, "tensor": 1} | sizes)


@pytest.mark.parametrize(
    ("configured", "wanted", "found"),
    [
        (mesh(), 16, (16, 1, 1, 1)),
        (mesh(fsdp=-1), 16, (1, 16, 1, 1)),
        (mesh(data=2, fsdp=-1), 16, (2, 8, 1, 1)),
        (mesh(fsdp=2, tensor=4), 32, (1, 8, 1, 4)),
        (mesh(fsdp=2, tensor=4), 2, (1, 1, 1, 2)),
        (mesh(fsdp=1, sequence=2, tensor=4), 1, (1, 1, 1, 1)),
        (mesh(tensor=-1), 16, (2, 1, 1, 8)),
    ],
)
def test_the_mesh_grows_along_one_axis(configured, wanted, found):
    assert tuple(scaled_mesh(configured, 8, wanted).model_dump().values()) == found


def test_how_many_devices():
    assert sizes(gpu("h100:4")) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert sizes(host(8)) == [1, 2, 4, 8]


def test_each_device_keeps_its_share():
    subject = Subject(build(SECTIONS))
    found, left = scaling(subject, host(4), minutes=5, note=lambda _: None)
    assert left == []
    assert [(one.chips, one.placed.batch_size) for one in found] == [(1, 4), (2, 8), (4, 16)]
    assert [one.placed.mesh for one in found] == [{"data": 1}, {"data": 1, "fsdp": 2}, {"data": 1, "fsdp": 4}]
    alone, *_, last = (one.placed for one in found)
    assert last.work.flops == pytest.approx(alone.work.flops, rel=0.01)
    assert not alone.work.collectives
    assert last.work.collectives


def test_no_time_is_no_points():
    subject = Subject(build(SECTIONS))
    assert scaling(subject, host(4), minutes=0, note=lambda _: None) == ([], [1, 2, 4])


def test_a_batch_that_is_no_multiple_is_rounded_up():
    subject = Subject(build(SECTIONS | {"run": {"steps": 1, "accumulate": 2}}))
    assert scaled_batch(subject, host(8), mesh(data=1), 1) == 2
    assert scaled_batch(subject, host(8), mesh(data=1, fsdp=4), 4) == 8
    assert scaled_batch(subject, host(4), mesh(data=1), 1) == 4
