"""`tools/plan/groups.py`: every form in which XLA writes replica groups, and the axes of a mesh they lie along."""

import numpy as np
import pytest

from jaxprop.tools.plan.groups import axes_of, pairs, replica_groups

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}, use_global_device_ids=true", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("{}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]], ("data", "fsdp", "tensor")),
        ("{{0,2,4,6},{1,3,5,7}}", [[0, 2, 4, 6], [1, 3, 5, 7]], ("data", "fsdp")),
        ("[4,2]<=[8], dimensions={0}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ("[4,2]<=[2,2,2]T(2,0,1), x", [[0, 2], [4, 6], [1, 3], [5, 7]], ("fsdp",)),
        ("[2,4]<=[2,2,2]T(1,0,2)", [[0, 1, 4, 5], [2, 3, 6, 7]], ("data", "tensor")),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}", [[0, 2, 4, 6], [1, 3, 5, 7]], ("data", "fsdp")),
        ("mesh['a'=2,'b'=2,'c'=2] {'b'}", [[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
        ("mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, c", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
        ("mesh['a'=8], device_ids=(0,2,4,6,1,3,5,7) {'a':(1)2}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("tensor",)),
    ],
)
def test_every_form(text, groups, axes):
    found = replica_groups(text, 8)
    assert sorted(sorted(group) for group in found.tolist()) == sorted(groups)
    assert axes_of(found, MESH) == axes


def test_a_form_that_is_not_known_is_none():
    assert replica_groups("@some_new_form", 8) is None
    assert replica_groups("{{0,1,2},{3}}", 4) is None  # groups of several sizes


def test_pairs_end_where_the_attribute_does():
    found = pairs('{{0,1},{1,0},{2,3}}, channel_id=65, metadata={op_name="a"}')
    assert found.tolist() == [[0, 1], [1, 0], [2, 3]]
    assert axes_of(np.array([[0, 4], [1, 5]]), MESH) == ("data",)
