import os
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.checkpoint import space
from jaxprop.checkpoint.space import Room, room_of, shortage

Statvfs = namedtuple("Statvfs", "f_bavail f_frsize f_favail f_files")


@pytest.fixture
def disk(monkeypatch):
    def have(free, inodes, counted=1000):
        monkeypatch.setattr(os, "statvfs", lambda _: Statvfs(free // 512, 512, inodes, counted))

    return have


def test_every_kind_of_leaf_has_a_size():
    state = {"w": jnp.ones((3, 4), jnp.bfloat16), "key": jax.random.key(0), "host": np.zeros(5), "number": 3}
    assert room_of(state).bytes == 24 + 8 + 40 + 8
    assert room_of(jax.eval_shape(lambda: {"w": jnp.ones((3, 4))})) == Room(48, space.FILES)


@pytest.mark.parametrize(
    ("free", "inodes", "counted", "copies", "says"),
    [
        (4_000_256, 100, 1000, 4, None),
        (3_999_744, 100, 1000, 4, "4 MB are needed and 4 MB are free"),
        (2_500_096, 100, 1000, 4, "4 MB are needed and 2.5 MB are free"),
        (4_000_256, 39, 1000, 4, "40 inodes (files) are needed and 39 are free"),
        (4_000_256, 0, 0, 4, None),  # a file system that does not count them
        (0, 0, 1000, 0, None),
        (512, 100, 1000, 1, "1 MB are needed and 512 bytes are free"),
    ],
)
def test_what_is_needed_is_compared_with_what_is_free(disk, tmp_path, free, inodes, counted, copies, says):
    disk(free, inodes, counted)
    assert shortage(tmp_path / "not" / "there", Room(1_000_000, 10), copies) == says


def test_a_system_that_does_not_tell_is_believed(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "statvfs")
    assert shortage(tmp_path, Room(10**18, 10), 1) is None
