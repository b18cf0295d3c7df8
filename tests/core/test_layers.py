"""Sums and norms over the layers of a tree against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import layers
from jaxprop.core.jaxprs.scans import Use
from jaxprop.core.layers import find_groups, group_layers, norm, norms, row_sums
from tests.steps import entries

RNG = np.random.default_rng(0)
SHAPES = {
    "alike": [(3, 5)] * 3,
    "of several shapes": [(3, 5), (7,), (2, 3, 4), ()],
    "empty": [(0,), (3, 0), (4,)],
    "nothing at all": [(0,)],
    "longer than a block": [(5000,), (4096,), (4097,), (2, 8192), (3, 2049), (1025,)],
    "too large to stack": [(300, 300), (300, 300), (2, 2)],
}
DTYPES = [np.float32, np.float16, jnp.bfloat16]


@pytest.fixture(params=["branch", "one pass"])
def form(request, monkeypatch):
    """Either form of the norms: what a CPU compiles, and what an accelerator does."""
    if request.param == "one pass":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    return request.param


def tree_of(shapes, dtype, two_leaves=True):
    """Layers of one or two leaves, with zeros here and there."""
    tree = {}
    for i, shape in enumerate(shapes):
        x = RNG.normal(size=shape)
        x = np.where(RNG.random(shape) < 0.3, 0, x)
        tree[f"l{i}"] = {"a": np.asarray(x).astype(dtype)}
        if two_leaves and i % 2:
            tree[f"l{i}"]["b"] = np.zeros(3, dtype)
    return tree


def exact(tree):
    """Norm of every layer and of all, in float64 and scaled, so that nothing overflows."""
    rows = entries(tree)
    rows = [np.max(np.abs(x), initial=0) * np.linalg.norm(x / np.max(np.abs(x), initial=1e-320)) for x in rows]
    largest = np.max(rows)
    return rows, largest * np.linalg.norm(np.asarray(rows) / (largest or 1))


def counts(x):
    return (x != 0, ~jnp.isfinite(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", SHAPES)
def test_sums_and_norms_of_layers_of_every_shape(case, dtype, form):
    tree = tree_of(SHAPES[case], dtype)
    groups = group_layers(tree)
    assert groups.sizes == tuple(len(x) for x in entries(tree))
    squares = jax.jit(lambda t: layers.squares(groups, t))(tree)
    np.testing.assert_allclose(squares, [np.sum(x**2) for x in entries(tree)], rtol=1e-5)
    found = jax.jit(lambda t: norms(groups, t))(tree)
    rows, total = exact(tree)
    rtol = 5e-5 if form == "one pass" else 1e-5  # added up one by one by what compiles quickly
    np.testing.assert_allclose(found.layers, rows, rtol=rtol)
    np.testing.assert_allclose(found.total, total, rtol=rtol)
    assert found.finite
    assert {found.layers.dtype, found.total.dtype, squares.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize("case", SHAPES)
def test_several_sums_come_out_of_one_pass(case):
    tree = tree_of(SHAPES[case], np.float32)
    bad = jax.tree.map(lambda x: np.where(RNG.random(x.shape) < 0.1, np.nan, x).astype(x.dtype), tree)
    found = jax.jit(lambda a: row_sums(group_layers(a), counts, a))(bad)
    expected = [[np.sum(x != 0) for x in entries(bad)], [np.sum(np.isnan(x)) for x in entries(bad)]]
    np.testing.assert_array_equal(found, expected)
    pairs = jax.jit(lambda a, b: row_sums(group_layers(a), lambda x, y: (x * y, x != y), a, b))(tree, bad)
    products = [np.sum(x * y) for x, y in zip(entries(tree), entries(bad), strict=True)]
    np.testing.assert_allclose(pairs[0], products, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pairs[1], [np.sum(x != y) for x, y in zip(entries(tree), entries(bad), strict=True)])


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2049, 4095, 4096, 4097, 12_288])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1.0])
def test_a_leaf_of_one_value_is_counted_to_the_last_entry(n, value):
    tree = {"w": np.full((2, n), value, np.float32)}
    found = row_sums(group_layers(tree), counts, tree)
    np.testing.assert_array_equal(found[:, 0], [2 * n * (value != 0), 2 * n * (not np.isfinite(value))])
    assert bool(norms(group_layers(tree), tree).finite) == np.isfinite(value)


def test_leaves_that_are_left_out_are_no_part_of_a_sum():
    tree = {"a": {"b": np.ones(2, np.float32), "w": np.ones(5000, np.float32)}, "c": np.ones(3, np.float32)}
    kept = [None, tree["a"]["w"], None]
    assert row_sums(group_layers(tree), lambda x: (x,), kept)[0].tolist() == [5000, 0]


def test_a_none_among_the_parameters_is_no_leaf():
    """Fault: with `trainable=` the parameters that are not trained stand as None in the tree."""
    tree = {"a": {"b": None, "w": np.ones(5000, np.float32)}, "c": [None, np.full(3, 2, np.float32)], "n": None}
    groups = group_layers(tree)
    assert groups.names == ("a", "c")
    assert row_sums(groups, lambda x, y: (x * y,), tree, tree)[0].tolist() == [5000, 12]
    np.testing.assert_allclose(norms(groups, tree).layers, np.sqrt([5000, 12]), rtol=1e-6)
    flat = [None, np.ones(2, np.float32)]
    assert layers.squares(group_layers(flat), flat).tolist() == [2]


def test_small_layers_are_reduced_together():
    tree = tree_of([(4, 4)] * 20, np.float32, two_leaves=False)
    reductions = [
        e for e in jax.make_jaxpr(lambda t: layers.squares(group_layers(t), t))(tree).eqns if "reduce_sum" in str(e)
    ]
    assert len(reductions) == 1


LONG = {"one": [2**20 + 3], "two": [2**20, 2**21 + 1], "many of many": [3000] * 200, "more than a chunk": [2**19] * 9}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", LONG)
def test_what_is_not_finite_in_one_layer_stays_out_of_every_other_row(case, bad, form):
    tree = {f"l{i}": np.ones(n, np.float32) for i, n in enumerate(LONG[case])}
    tree["l0"][-1] = bad
    tree["z"] = np.zeros(2, np.float32)
    groups = group_layers(tree)
    squares, found = jax.jit(lambda t: (layers.squares(groups, t), norms(groups, t)))(tree)
    np.testing.assert_array_equal(squares, [bad**2, *LONG[case][1:], 0])
    np.testing.assert_array_equal(found.layers[:1], [abs(bad)])
    np.testing.assert_allclose(found.layers[1:], [*np.sqrt(LONG[case][1:]), 0], rtol=1e-6)
    assert not found.finite
    assert not np.isfinite(found.total)


# -- norms of any finite entries ------------------------------------------------------------------

MIXED = [1e30, 3e38, 1e-30, 1e-36, 1.0, 1e-10, 1e19, 1e-23, 0.0]  # one size of entries a layer


def sized(sizes, dtype, shape=(37,)):
    """Layers of entries of these sizes, of both signs, and a second leaf of small entries in every other layer."""
    tree = {}
    for i, size in enumerate(sizes):
        x = RNG.uniform(0.1, 1, shape) * RNG.choice([-1, 1], shape)
        tree[f"l{i}"] = {"a": (x * size).astype(dtype)}
        if i % 2:
            tree[f"l{i}"]["b"] = (x[:3] * size * 1e-5).astype(dtype)
    return tree


@pytest.mark.parametrize("shape", [(37,), (70, 70), (5000,)], ids=str)
@pytest.mark.parametrize("sizes", [MIXED, [1e30], [1e-30], [1e30, 1e-30], [1e-25, 1.0]], ids=str)
def test_norms_are_right_wherever_the_entries_are_finite(sizes, shape, form):
    sizes = [size / 100 if size > 1e37 else size for size in sizes]  # the norm itself has to be finite
    tree = sized(sizes, np.float32, shape)
    found = jax.jit(lambda t: norms(group_layers(t), t))(tree)
    rows, total = exact(tree)
    np.testing.assert_allclose(found.layers, rows, rtol=1e-5)
    np.testing.assert_allclose(found.total, total, rtol=1e-5)
    np.testing.assert_allclose(norm(tree), total, rtol=1e-5)
    assert found.finite


def test_a_norm_beyond_float32_of_finite_entries_is_no_fault(form):
    tree = {"a": np.full(5000, 3e38, np.float32), "b": np.ones(2, np.float32)}
    found = norms(group_layers(tree), tree)
    assert found.finite
    np.testing.assert_allclose(found.layers[1], np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("sizes", [[1e25], [1e200], [1e-200, 1e200, 1.0], [1e-30, 1e-160, 0.0]], ids=str)
def test_norms_in_float64(sizes, form, x64):
    tree = sized(sizes, np.float64)
    found = jax.jit(lambda t: norms(group_layers(t), t))(tree)
    rows, total = exact(tree)
    assert found.layers.dtype == found.total.dtype == np.float64
    np.testing.assert_allclose(found.layers, rows, rtol=1e-12)
    np.testing.assert_allclose(found.total, total, rtol=1e-12)
    assert found.finite


def test_norms_of_float64_beside_float32(form, x64):
    tree = sized([1e30, 1.0, 1e-30, 0.0], np.float32) | {"w": {"a": np.array([3e200, 4e200])}}
    found = jax.jit(lambda t: norms(group_layers(t), t))(tree)
    np.testing.assert_allclose(found.layers, exact(tree)[0], rtol=1e-12)
    assert found.finite


@pytest.mark.parametrize(("dtype", "sizes"), [(np.float16, [6e4, 1e-6, 1.0]), (jnp.bfloat16, [1e30, 1e-30, 1.0])])
def test_norms_of_half_precision_are_those_of_its_numbers(dtype, sizes, form):
    tree = sized(sizes, dtype)
    found = jax.jit(lambda t: norms(group_layers(t), t))(tree)
    rows, total = exact(tree)
    np.testing.assert_allclose(found.layers, rows, rtol=1e-5)
    np.testing.assert_allclose(found.total, total, rtol=1e-5)
    assert found.layers.dtype == np.float32


@pytest.mark.parametrize("size", [1e30, 1.0, 1e-30])
def test_norms_of_complex_numbers(size, form):
    parts = RNG.normal(size=(2, 40)) * size
    tree = {"c": (parts[0] + 1j * parts[1]).astype(np.complex64), "r": np.full(2, size, np.float32)}
    found = jax.jit(lambda t: norms(group_layers(t), t))(tree)
    expected = [size * np.linalg.norm(parts / size), size * np.sqrt(2)]
    np.testing.assert_allclose(found.layers, expected, rtol=1e-5)
    assert found.finite
    if size == 1.0:
        np.testing.assert_allclose(layers.squares(group_layers(tree), tree), np.square(expected), rtol=1e-5)


def test_both_forms_agree_on_parts_of_every_size():
    lines = [np.stack([x["a"] for x in sized(MIXED[2:], np.float32).values()])]
    lines.append(np.array([[np.nan, 1], [np.inf, 1], [1e30, 1e-30], [0, 0]], np.float32))
    by_branch = jax.jit(lambda lines: layers._sums_by_branch(list, lines))(lines)
    all_scales = jax.jit(layers._sums_at_all_scales)(lines)
    np.testing.assert_allclose(layers._roots(by_branch), layers._roots(all_scales), rtol=2e-6)


def test_without_parameters_the_norm_is_zero():
    found = norms(group_layers({}), {})
    assert (found.layers.shape, float(found.total), bool(found.finite)) == ((0,), 0, True)


# -- stacks, and the order of the forward pass ----------------------------------------------------


@pytest.mark.parametrize("size", [1e30, 1.0, 1e-30])
def test_a_stack_has_a_row_for_each_of_its_layers(size, form):
    tree = {"b": {"w": RNG.normal(size=(3, 40, 50)), "s": RNG.normal(size=3)}, "h": {"w": RNG.normal(size=(2, 2))}}
    tree = jax.tree.map(lambda x: np.where(RNG.random(x.shape) < 0.3, 0, x * size).astype(np.float32), tree)
    groups = group_layers(tree, [Use(1, 3), Use(1, 3), Use(2)])
    assert groups.names == ("b[0]", "b[1]", "b[2]", "h")
    assert groups.sizes == (2001, 2001, 2001, 4)
    assert groups.fans == ((40, 50),) * 3 + ((2, 2),)
    rows = [np.append(tree["b"]["w"][i].ravel(), tree["b"]["s"][i]) for i in range(3)] + [tree["h"]["w"].ravel()]
    expected = [size * np.linalg.norm(x.astype(np.float64) / size) for x in rows]
    np.testing.assert_allclose(norms(groups, tree).layers, expected, rtol=1e-5)
    found = row_sums(groups, counts, tree)
    assert found[0].tolist() == [np.count_nonzero(x) for x in rows]


def test_a_stack_may_share_its_owner_with_a_leaf_that_is_none():
    tree = {"b": {"scale": np.ones(2, np.float32), "w": np.ones((2, 3), np.float32)}}
    groups = group_layers(tree, [Use(1), Use(2, 2)])
    assert dict(zip(groups.names, groups.sizes, strict=True)) == {"b": 2, "b[0]": 3, "b[1]": 3}
    found = layers.squares(groups, tree).tolist()
    assert dict(zip(groups.names, found, strict=True)) == {"b": 2, "b[0]": 3, "b[1]": 3}


ORDERED = {
    "a_last": {"w": np.ones((4, 4))},
    "m_blocks": {"b": np.ones((3, 4)), "w": np.ones((3, 4, 4))},
    "n_norms": {"s": np.ones((3, 4))},
    "unused": {"w": np.ones(2)},
    "z_first": {"w": np.ones((4, 4))},
}


def through(params, x):
    """Uses its parameters in another order than the tree's; a scan runs over two stacks at once."""

    def turn(x, layer):
        w, b, s = layer
        return jnp.tanh((x * s) @ w + b), None

    x = x @ params["z_first"]["w"]
    stacks = params["m_blocks"]["w"], params["m_blocks"]["b"], params["n_norms"]["s"]
    return jnp.sum(jax.lax.scan(turn, x, stacks)[0] @ params["a_last"]["w"])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_layers_come_in_the_order_of_the_forward_pass_and_stacks_layer_by_layer(wrap):
    params = jax.tree.map(lambda x: x.astype(np.float32), ORDERED)
    jaxpr = jax.make_jaxpr(wrap(through))(params, np.ones((2, 4), np.float32))
    groups = find_groups(jaxpr, params)
    blocks = [f"{name}[{i}]" for i in range(3) for name in ("n_norms", "m_blocks")]
    assert groups.names == ("z_first", *blocks, "a_last", "unused")
    tree = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), params)
    rows = [[tree["z_first"]["w"]]]
    rows += [x for i in range(3) for x in ([tree["n_norms"]["s"][i]], [tree["m_blocks"][n][i] for n in "bw"])]
    rows += [[tree["a_last"]["w"]], [tree["unused"]["w"]]]
    expected = [np.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in row)) for row in rows]
    np.testing.assert_allclose(norms(groups, tree).layers, expected, rtol=1e-5)
    assert groups.sizes == tuple(sum(x.size for x in row) for row in rows)


def test_without_a_trace_layers_come_in_the_order_of_the_tree():
    assert group_layers(ORDERED).names == tuple(ORDERED)


@pytest.mark.parametrize("bias", [False, True])
def test_the_norm_of_zeros_that_the_compiler_knows_is_zero(bias):
    shapes = {"head": (128, 10), "first": (64, 256), "second": (256, 128)}
    params = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    if bias:
        params = {name: {**one, "bias": jnp.ones(one["kernel"].shape[1])} for name, one in params.items()}
    groups = layers.group_layers(params)
    found = jax.jit(lambda: layers.norms(groups, jax.tree.map(jnp.zeros_like, params)))()
    assert (found.layers.tolist(), float(found.total), bool(found.finite)) == ([0.0] * 3, 0.0, True)
