"""Mosaics: four images that meet at one point, each in its own corner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.data.augment.mosaic import mosaic


def batch_of(count=8, side=16):
    """Images of one value each."""
    inputs = jnp.broadcast_to(jnp.arange(1.0, count + 1)[:, None, None, None], (count, side, side, 1))
    boxes = jnp.broadcast_to(jnp.array([[0.0, 0.0, side, side]]), (count, 1, 4))
    return {
        "inputs": inputs,
        "boxes": boxes,
        "labels": jnp.arange(1, count + 1, dtype=jnp.int32)[:, None],
        "mask": jnp.ones((count, 1)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_each_part_has_one_image_and_its_box_ends_where_the_part_does(seed):
    moved = {
        k: np.asarray(v) for k, v in mosaic(jax.random.key(seed), batch_of(), smallest=1.0, probability=1.0).items()
    }
    for i, image in enumerate(moved["inputs"][..., 0]):
        values = [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]]
        assert values[0] == i + 1
        assert all(value != i + 1 for value in values[1:])
        down, across = (image[:, 0] == values[0]).argmin(), (image[0] == values[0]).argmin()
        if values[2] != values[0] and values[1] != values[0]:
            assert 4 <= down <= 12
            assert 4 <= across <= 12
        parts = [image[:down, :across], image[:down, across:], image[down:, :across], image[down:, across:]]
        assert [np.unique(part).tolist() for part in parts] == [[value] for value in values]
        expected = [(0, 0, across, down), (across, 0, 16, down), (0, down, across, 16), (across, down, 16, 16)]
        for box, label, edges, value in zip(moved["boxes"][i], moved["labels"][i], expected, values, strict=True):
            share = (edges[2] - edges[0]) * (edges[3] - edges[1]) / 256
            assert label == value
            assert box.tolist() == (list(edges) if share >= 0.3 else [0, 0, 0, 0])


def test_how_many_become_one():
    batch = batch_of(count=400, side=4)
    moved = np.asarray(mosaic(jax.random.key(0), batch, probability=0.25)["inputs"])
    changed = (moved != np.asarray(batch["inputs"])).any((1, 2, 3))
    assert changed.mean() == pytest.approx(0.25, abs=0.06)
