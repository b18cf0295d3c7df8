"""The packed record: every attribute reads the value its name was packed under, also for several steps a call."""

import jax
import numpy as np
import pytest

from jaxprop.types import COLUMNS, SCALARS, Layout, Measurements

LAYOUT = Layout(metrics=("accuracy", "top5"), layers=("a", "b", "c"))


def packed(offset=0.0):
    """Every slot holds a value of its own, written down here slot by slot."""
    scalars = [offset + i for i in range(len(SCALARS))]
    metrics = [offset + v for v in (100, 101, 200, 201)]
    layers = [offset + 1000 * (column + 1) + layer for column in range(len(COLUMNS)) for layer in range(3)]
    return np.array([*scalars, *metrics, *layers], np.float32)


@pytest.mark.parametrize("i", range(len(SCALARS)), ids=SCALARS)
def test_scalars(i):
    several = Measurements(np.stack([packed(), packed(0.5)]), LAYOUT)
    assert getattr(Measurements(packed(), LAYOUT), SCALARS[i]) == i
    assert getattr(several, SCALARS[i]).tolist() == [i, i + 0.5]


def test_metrics_are_sums_and_counts_by_name():
    assert Measurements(packed(), LAYOUT).metrics == {"accuracy": (100, 101), "top5": (200, 201)}


def test_layers_are_columns():
    m = Measurements(packed(), LAYOUT)
    assert [getattr(m.layers, name).tolist() for name in COLUMNS] == [
        [1000, 1001, 1002],
        [2000, 2001, 2002],
        [3000, 3001, 3002],
    ]
    np.testing.assert_allclose(m.layers.update_ratio, [1.5, 3001 / 2001, 3002 / 2002], rtol=1e-6)


def test_the_update_ratio_of_a_layer_at_zero_is_finite():
    m = Measurements(np.zeros_like(packed()), LAYOUT)
    assert m.layers.update_ratio.tolist() == [0, 0, 0]


def test_without_layers_the_columns_are_empty():
    m = Measurements(packed()[: len(SCALARS)], Layout((), ()))
    assert m.metrics == {}
    assert [column.shape for column in m.layers] == [(0,)] * 3


def test_one_step_of_several():
    m = Measurements(np.stack([packed(), packed(0.5)]), LAYOUT)
    np.testing.assert_array_equal(m.at(1).packed, packed(0.5))
    assert m.layers.grad_norm.shape == (2, 3)


def test_a_record_crosses_jit_with_its_layout():
    out = jax.jit(lambda m: jax.tree.map(lambda x: x + 1.0, m))(Measurements(packed(), LAYOUT))
    assert out.layout == LAYOUT
    host = out.host()
    assert isinstance(host.packed, np.ndarray)
    np.testing.assert_array_equal(host.packed, packed(1.0))
