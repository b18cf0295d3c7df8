"""The packed record: every attribute reads the value its name was packed under, also for several steps a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import measurements
from jaxprop.core.measurements import (
    COLUMNS,
    KINDS_OF,
    RARE_COLUMNS,
    RARE_SCALARS,
    SCALARS,
    TAP_COLUMNS,
    Layout,
    Measurements,
)

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


def test_the_table_of_signals():
    """What the records of most steps hold is this and no more: all else waits for the rare ones."""
    assert SCALARS == ("loss", "weight", "grad_norm", "learning_rate", "loss_scale", "skipped", "skips", "guard")
    assert COLUMNS == ("grad_norm",)
    assert {"clipped_norm", "param_norm", "update_norm", "output_max"} < set(RARE_SCALARS)
    assert {"param_norm", "update_norm", "zero_fraction", "adam_lag", "swallowed", "flushed"} < set(RARE_COLUMNS)


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


RARE_ROWS = {name: [10_000 * (i + 1) + j for j in range(3)] for i, name in enumerate(RARE_COLUMNS)}


@pytest.mark.parametrize("layout", [ROWS, FULL])
def test_layers_are_columns(layout):
    m = Measurements(packed(layout), layout)
    assert m.layers.grad_norm.tolist() == [1000, 1001, 1002]
    assert m.layers.sizes.tolist() == [1, 4, 9]
    np.testing.assert_allclose(m.layers.grad_rms, [1000, 1001 / 2, 1002 / 3], rtol=1e-6)
    for name in ("param_norm", "update_norm", "zero_fraction", "adam_lag"):
        expected = RARE_ROWS[name] if layout.rare else [np.nan] * 3
        np.testing.assert_array_equal(getattr(m.layers, name), np.array(expected, np.float32))
    for name in ("param", "update"):
        expected = np.array(RARE_ROWS[f"{name}_norm"]) / [1, 2, 3] if layout.rare else [np.nan] * 3
        np.testing.assert_allclose(getattr(m.layers, f"{name}_rms"), expected, rtol=1e-6)
    ratio = np.divide(RARE_ROWS["update_norm"], RARE_ROWS["param_norm"]) if layout.rare else [np.nan] * 3
    np.testing.assert_allclose(m.layers.update_ratio, ratio, rtol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [(np.nan, 1), (np.inf, 1), (3e38, 0), (0.0, 0)])
def test_a_layer_is_not_finite_where_its_gradient_norm_is_not(norm, expected):
    values = packed()
    values[-2] = norm
    m = Measurements(values, ROWS)
    assert m.layers.nonfinite.tolist() == [0, expected, 0]
    assert m.layers.nonfinite.dtype == np.float32


def test_the_update_ratio_of_a_layer_at_zero_is_finite():
    m = Measurements(np.zeros_like(packed(FULL)), FULL)
    assert m.layers.update_ratio.tolist() == [0, 0, 0]


def test_rare_signals_and_taps_come_last():
    m = Measurements(packed(FULL), FULL)
    for i, name in enumerate(RARE_SCALARS):
        assert getattr(m.rare if name in m.rare._fields else m, name) == 50 + i
    for name, row in RARE_ROWS.items():
        assert getattr(m.rare if name in m.rare._fields else m.layers, name).tolist() == row
    for i, name in enumerate(TAP_COLUMNS):
        expected = [100_000 * (i + 1) + j if kind in KINDS_OF.get(name, (kind,)) else np.nan
                    for j, (_, kind) in enumerate(TAPS)]  # fmt: skip
        np.testing.assert_array_equal(getattr(m.taps, name), np.array(expected, np.float32))


def test_what_is_rare_reads_as_nan_elsewhere():
    for layout in (LEAN, ROWS):
        m = Measurements(packed(layout), layout)
        assert all(np.isnan(getattr(m, name)) for name in RARE_SCALARS if hasattr(Measurements, name))
        several = Measurements(np.stack([packed(layout)] * 2), layout)
        assert several.param_norm.shape == (2,)
        assert several.layers.param_norm.shape == (2, len(layout.layers))
        assert np.isnan(several.layers.param_norm).all()


def test_a_record_without_them_says_so():
    lean = Measurements(packed(LEAN), LEAN)
    assert [x.shape for x in lean.layers] == [(0,)] * len(lean.layers)
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
RARE_VALUES = {name: 50.0 + i for i, name in enumerate(RARE_SCALARS)}
ROW_VALUES, RARE_ROW_VALUES = numbered(COLUMNS, 3, 1000), numbered(RARE_COLUMNS, 3, 2000)
TAPPED = numbered(TAP_COLUMNS, 2, 3000)
KINDS = {  # scalars, rows, taps
    "lean": (SCALAR_VALUES, None, None),
    "rows": (SCALAR_VALUES, ROW_VALUES, None),
    "full": (SCALAR_VALUES | RARE_VALUES, ROW_VALUES | RARE_ROW_VALUES, TAPPED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_read_back(kind):
    scalars, rows, tapped = KINDS[kind]
    m = jax.jit(lambda *args: measurements.pack(*args, LAYOUT))(SUMS, scalars, rows, tapped)
    assert m.packed.dtype == jnp.float32
    assert m.packed.shape == (m.layout.length,)
    assert {name: float(getattr(m, name)) for name in SCALARS} == SCALAR_VALUES
    assert m.metrics == {"accuracy": (3, 4), "top5": (5, 6)}
    assert m.layout.layers == (LAYOUT.layers if rows else ())
    assert m.layout.absent == (frozenset() if rows else {"layers.grad_norm"})
    np.testing.assert_array_equal(m.layers.grad_norm, ROW_VALUES["grad_norm"] if rows else [])
    assert (m.rare is None) == (m.taps is None) == (tapped is None)
    if tapped:
        for name, value in RARE_VALUES.items():
            assert getattr(m.rare if name in m.rare._fields else m, name) == value
        for name, row in RARE_ROW_VALUES.items():
            np.testing.assert_array_equal(getattr(m.rare if name in m.rare._fields else m.layers, name), row)
        np.testing.assert_array_equal(m.taps.rms, TAPPED["rms"])


@pytest.mark.parametrize("several", [False, True])
def test_what_is_missing_is_left_out_and_reads_as_nan(several):
    m = measurements.pack({}, {"loss": 1.0}, {}, {}, LAYOUT)
    assert m.packed.tolist() == [1]
    if several:
        m = Measurements(m.packed[None], m.layout)
    assert {"grad_norm", "layers.grad_norm", "layers.param_norm", "taps.rms"} < m.layout.absent
    for name in SCALARS[1:]:
        assert np.isnan(getattr(m, name)).all()
    lead = (1,) if several else ()
    for name in ("grad_norm", "param_norm", "update_norm", "zero_fraction", "adam_lag"):
        np.testing.assert_array_equal(getattr(m.layers, name), np.full((*lead, 3), np.nan))
    assert all(np.isnan(value).all() for value in [*m.rare, *m.taps])
    assert np.shape(m.taps.rms) == (*lead, 2)
    assert np.shape(m.rare.swallowed) == (*lead, 3)


def test_a_value_that_does_not_apply_to_one_layer_or_tap_is_kept_as_a_number_and_reads_as_nan():
    row = {"adam_lag": jnp.array([1.0, measurements.NOT_APPLICABLE, 3.0])}
    m = measurements.pack({}, {}, row, {"attention_max": jnp.array([-1.0, 2.0])}, LAYOUT)
    assert not np.isnan(m.packed).any()
    np.testing.assert_array_equal(m.layers.adam_lag, [1, np.nan, 3])
    np.testing.assert_array_equal(m.host().layers.adam_lag, [1, np.nan, 3])


def test_outputs_are_means_over_what_they_were_counted_on():
    found = measurements.outputs({"_output_max": (jnp.float32(6), jnp.float32(4)), "accuracy": (1, 1)})
    assert {name: float(value) for name, value in found.items()} == {"output_max": 1.5}


def test_records_of_one_call_that_differ_in_length_are_joined_and_taken_apart():
    several = [measurements.pack(SUMS, {"loss": float(i)}, ROW_VALUES, layout=LAYOUT) for i in range(2)]
    early = Measurements(jnp.stack([m.packed for m in several]), several[0].layout)
    last = measurements.pack(SUMS, {"loss": 9.0, **RARE_VALUES}, ROW_VALUES | RARE_ROW_VALUES, TAPPED, LAYOUT)
    joined = measurements.join(early, last)
    assert joined.loss.tolist() == [0, 1, 9]
    assert joined.layers.grad_norm.shape == (3, 3)
    np.testing.assert_array_equal(joined.layers.grad_norm, [ROW_VALUES["grad_norm"]] * 3)
    assert joined.rare.curvature.tolist()[2] == RARE_VALUES["curvature"]
    assert np.isnan(joined.rare.curvature[:2]).all()
    np.testing.assert_array_equal(joined.layers.param_norm[2], RARE_ROW_VALUES["param_norm"])
    assert np.isnan(joined.layers.param_norm[:2]).all()
    for i, single in enumerate([*several, last]):
        assert joined.at(i).layout == single.layout
        np.testing.assert_array_equal(joined.at(i).packed, single.packed)
    assert joined.at(0).rare is None


# -- for a person ---------------------------------------------------------------------------------


def test_a_record_is_shown_with_a_row_for_each_layer():
    text = str(Measurements(packed(), ROWS)).splitlines()
    assert text[0].startswith("loss 0  weight 1  grad_norm 2  learning_rate 3")
    assert [line.split()[0] for line in text[1:]] == ["layer", "a", "b", "c"]
    assert text[1].split() == ["layer", "grad_norm", "grad_rms"]
    assert text[3].split() == ["b", "1001", f"{1001 / 2:.4g}"]


def test_a_full_record_shows_more_and_one_without_rows_less():
    full, lean = str(Measurements(packed(FULL), FULL)), str(Measurements(packed(LEAN), LEAN))
    assert "update_ratio" in full
    assert "clipped_norm 50" in full
    assert len(lean.splitlines()) == 1


def test_a_loss_of_nan_is_shown():
    record = packed()
    record[0] = np.nan
    assert str(Measurements(record, ROWS)).startswith("loss nan  ")


def test_of_several_steps_the_last_is_shown():
    several = Measurements(np.stack([packed(), packed(offset=1000.0)]), ROWS)
    assert str(several).startswith("the last of 2 steps:\nloss 1000  ")


def test_long_networks_are_cut():
    layout = Layout(layers=tuple(f"layer{i}" for i in range(100)), sizes=(1,) * 100)
    text = str(Measurements(np.ones(layout.length, np.float32), layout)).splitlines()
    assert len(text) < 30
    assert text[-1] == "and 76 more layers"


def test_inside_jit_there_is_nothing_to_show_and_no_error():
    seen = []
    jax.jit(lambda m: seen.append(str(m)) or m.packed)(Measurements(jnp.asarray(packed()), ROWS))
    assert "Measurements(" in seen[0]
