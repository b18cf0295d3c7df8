"""The packed record: every attribute reads the value its name was packed under, also for several steps a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import measurements
from jaxprop.core.measurements import COLUMNS, RARE_COLUMNS, RARE_SCALARS, SCALARS, TAP_COLUMNS, Layout, Measurements

TAPS = (("x", "relu"), ("y", ""))
ROWS = Layout(metrics=("accuracy", "top5"), layers=("a", "b", "c"), sizes=(1, 4, 9))
FULL = ROWS._replace(rare=True, taps=TAPS)
LEAN = ROWS._replace(layers=(), sizes=())


def columns(names, start, width):
    return [start * (i + 1) + j for i in range(len(names)) for j in range(width)]


def packed(layout=ROWS, offset=0.0):
    """Every slot holds a value of its own, written down here slot by slot."""
    values = [*range(len(SCALARS)), 100, 101, 200, 201]
    if layout.layers:
        values += columns(COLUMNS, 1000, 3)
    if layout.rare:
        values += [*range(50, 50 + len(RARE_SCALARS)), *columns(RARE_COLUMNS, 10_000, 3)]
        values += columns(TAP_COLUMNS, 100_000, 2)
    return np.array(values, np.float32) + np.float32(offset)


@pytest.mark.parametrize("layout", [LEAN, ROWS, FULL])
def test_the_length_is_that_of_all_slots(layout):
    assert layout.length == len(packed(layout))


@pytest.mark.parametrize("i", range(len(SCALARS)), ids=SCALARS)
def test_scalars(i):
    for layout in (LEAN, ROWS, FULL):
        several = Measurements(np.stack([packed(layout), packed(layout, 0.5)]), layout)
        assert getattr(Measurements(packed(layout), layout), SCALARS[i]) == i
        assert getattr(several, SCALARS[i]).tolist() == [i, i + 0.5]


@pytest.mark.parametrize("layout", [LEAN, ROWS, FULL])
def test_metrics_are_sums_and_counts_by_name(layout):
    assert Measurements(packed(layout), layout).metrics == {"accuracy": (100, 101), "top5": (200, 201)}


@pytest.mark.parametrize("layout", [ROWS, FULL])
def test_layers_are_columns(layout):
    m = Measurements(packed(layout), layout)
    expected = [[1000 * (i + 1) + j for j in range(3)] for i in range(len(COLUMNS))]
    assert [getattr(m.layers, name).tolist() for name in COLUMNS] == expected
    assert m.layers.sizes.tolist() == [1, 4, 9]
    np.testing.assert_allclose(m.layers.update_ratio, [1.5, 3001 / 2001, 3002 / 2002], rtol=1e-6)
    for name, start in (("grad", 1000), ("param", 2000), ("update", 3000)):
        np.testing.assert_allclose(
            getattr(m.layers, f"{name}_rms"), [start, (start + 1) / 2, (start + 2) / 3], rtol=1e-6
        )


def test_the_update_ratio_of_a_layer_at_zero_is_finite():
    m = Measurements(np.zeros_like(packed()), ROWS)
    assert m.layers.update_ratio.tolist() == [0, 0, 0]


def test_rare_signals_and_taps_come_last():
    m = Measurements(packed(FULL), FULL)
    assert [getattr(m.rare, name) for name in RARE_SCALARS] == [50, 51, 52, 53]
    assert [getattr(m.rare, name).tolist() for name in RARE_COLUMNS] == [
        [10_000 * (i + 1) + j for j in range(3)] for i in range(len(RARE_COLUMNS))
    ]
    assert [getattr(m.taps, name).tolist() for name in TAP_COLUMNS] == [
        [100_000 * (i + 1) + j for j in range(2)] for i in range(len(TAP_COLUMNS))
    ]


def test_a_record_without_them_says_so():
    lean = Measurements(packed(LEAN), LEAN)
    assert [getattr(lean.layers, name).shape for name in COLUMNS] == [(0,)] * len(COLUMNS)
    assert lean.layers.update_ratio.shape == lean.layers.grad_rms.shape == (0,)
    assert [Measurements(packed(x), x).rare for x in (LEAN, ROWS)] == [None, None]
    assert [Measurements(packed(x), x).taps for x in (LEAN, ROWS)] == [None, None]


@pytest.mark.parametrize("early", [None, ROWS, LEAN])
def test_one_step_of_several(early):
    """The earlier steps of a call may have measured less: theirs is the shorter layout, and padding after it."""
    first = packed(FULL if early is None else early, 0.5)
    padded = np.pad(first, (0, FULL.length - len(first)), constant_values=np.nan)
    m = Measurements(np.stack([padded, padded, packed(FULL)]), FULL._replace(early=early))
    assert m.rare.curvature.shape == (3,)
    for i in range(2):
        assert m.at(i).layout == (FULL if early is None else early)
        np.testing.assert_array_equal(m.at(i).packed, first)
        assert (m.at(i).rare is None) == (early is not None)
    for last in (2, -1):
        assert m.at(last).layout == FULL
        np.testing.assert_array_equal(m.at(last).packed, packed(FULL))
    assert m.loss.tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("layout", [ROWS, FULL, FULL._replace(early=ROWS)])
def test_a_record_crosses_jit_with_its_layout(layout):
    out = jax.jit(lambda m: jax.tree.map(lambda x: x + 1.0, m))(Measurements(packed(layout), layout))
    assert out.layout == layout
    host = out.host()
    assert isinstance(host.packed, np.ndarray)
    np.testing.assert_array_equal(host.packed, packed(layout, 1.0))


# -- packing --------------------------------------------------------------------------------------

LAYOUT = Layout((), ROWS.layers, (1, 2, 3), taps=TAPS)
SUMS = {"accuracy": (jnp.float32(3), jnp.float32(4)), "_output_max": (1.0, 1.0), "top5": (5, 6)}


def numbered(names, width, start):
    return {name: jnp.arange(width, dtype=jnp.float32) + start + 100 * i for i, name in enumerate(names)}


SCALAR_VALUES = {name: np.float32(i + 0.5) for i, name in enumerate(SCALARS)}
ROW_VALUES = numbered(COLUMNS, 3, 1000)
RARE = {name: 50.0 + i for i, name in enumerate(RARE_SCALARS)} | numbered(RARE_COLUMNS, 3, 2000)
TAPPED = jnp.stack(list(numbered(TAP_COLUMNS, 2, 3000).values()))
COLUMNS_GIVEN = [jnp.stack([ROW_VALUES[name] for name in COLUMNS[:-1]]), ROW_VALUES[COLUMNS[-1]]]
KINDS = {"lean": (None, None, None), "rows": (COLUMNS_GIVEN, None, None), "full": (COLUMNS_GIVEN, RARE, TAPPED)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_read_back(kind):
    rows, rare, tapped = KINDS[kind]
    m = measurements.pack(SUMS, SCALAR_VALUES, rows, rare, tapped, LAYOUT if rows else None)
    assert m.packed.dtype == jnp.float32
    assert m.packed.shape == (m.layout.length,)
    assert {name: float(getattr(m, name)) for name in SCALARS} == SCALAR_VALUES
    assert m.metrics == {"accuracy": (3, 4), "top5": (5, 6)}
    assert m.layout.layers == (ROWS.layers if rows else ())
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(m.layers, name), ROW_VALUES[name] if rows else [])
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
