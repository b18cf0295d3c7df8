"""The packed record: what goes in by name comes out by name, whatever else is there."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import measurements
from jaxprop.core.measurements import COLUMNS, RARE_COLUMNS, RARE_SCALARS, SCALARS, TAP_COLUMNS, Layout, Measurements

LAYERS, TAPS = ("a", "b", "c"), (("x", "relu"), ("y", ""))
LAYOUT = Layout((), LAYERS, (1, 2, 3), taps=TAPS)
SUMS = {"accuracy": (jnp.float32(3), jnp.float32(4)), "_output_max": (1.0, 1.0), "top5": (5, 6)}


def numbered(names, width, start):
    return {name: jnp.arange(width, dtype=jnp.float32) + start + 100 * i for i, name in enumerate(names)}


SCALAR_VALUES = {name: np.float32(i + 0.5) for i, name in enumerate(SCALARS)}
ROWS = numbered(COLUMNS, 3, 1000)
RARE = {name: 50.0 + i for i, name in enumerate(RARE_SCALARS)} | numbered(RARE_COLUMNS, 3, 2000)
TAPPED = jnp.stack(list(numbered(TAP_COLUMNS, 2, 3000).values()))
COLUMNS_GIVEN = [jnp.stack([ROWS[name] for name in COLUMNS[:-1]]), ROWS[COLUMNS[-1]]]
KINDS = {"lean": (None, None, None), "rows": (COLUMNS_GIVEN, None, None), "full": (COLUMNS_GIVEN, RARE, TAPPED)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_read_back(kind):
    rows, rare, tapped = KINDS[kind]
    m = measurements.pack(SUMS, SCALAR_VALUES, rows, rare, tapped, LAYOUT if rows else None)
    assert m.packed.dtype == jnp.float32
    assert m.packed.shape == (m.layout.length,)
    assert {name: float(getattr(m, name)) for name in SCALARS} == SCALAR_VALUES
    assert m.metrics == {"accuracy": (3, 4), "top5": (5, 6)}
    assert m.layout.layers == (LAYERS if rows else ())
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(m.layers, name), ROWS[name] if rows else [])
    assert (m.rare is None) == (m.taps is None) == (rare is None)
    if rare:
        for name in (*RARE_SCALARS, *RARE_COLUMNS):
            np.testing.assert_array_equal(getattr(m.rare, name), RARE[name])
        np.testing.assert_array_equal(np.stack(m.taps), TAPPED)


def test_what_is_missing_is_nan():
    m = measurements.pack({}, {}, [jnp.full((len(COLUMNS), 3), jnp.nan)], {}, jnp.zeros((len(TAP_COLUMNS), 2)), LAYOUT)
    values = [*(getattr(m, name) for name in SCALARS), *m.layers[:-1], *m.rare]
    assert all(np.isnan(value).all() for value in values)


def test_outputs_are_means_over_microbatches():
    found = measurements.outputs({"_output_max": (jnp.float32(6), jnp.float32(4)), "accuracy": (1, 1)})
    assert float(found["output_max"]) == 1.5
    assert np.isnan(found["output_logsumexp"])


def test_records_of_one_call_that_differ_in_length_are_joined_and_taken_apart():
    several = [measurements.pack(SUMS, {"loss": float(i)}, COLUMNS_GIVEN, layout=LAYOUT) for i in range(2)]
    early = Measurements(jnp.stack([m.packed for m in several]), several[0].layout)
    last = measurements.pack(SUMS, {"loss": 9.0}, COLUMNS_GIVEN, RARE, TAPPED, LAYOUT)
    joined = measurements.join(early, last)
    assert joined.loss.tolist() == [0, 1, 9]
    assert joined.layers.grad_norm.shape == (3, 3)
    assert joined.rare.curvature.tolist()[2] == RARE["curvature"]
    assert np.isnan(joined.rare.curvature[:2]).all()
    for i, single in enumerate([*several, last]):
        assert joined.at(i).layout == single.layout
        np.testing.assert_array_equal(joined.at(i).packed, single.packed)
    assert joined.at(0).rare is None
