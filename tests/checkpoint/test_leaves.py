from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.checkpoint.leaves import check_fit, describe, pack, unpack
from jaxprop.errors import CheckpointError


def test_unpack_inverts_pack_for_every_kind_of_leaf():
    tree = {
        "key": jax.random.key(3),
        "rbg": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "bf16": jnp.array([1.5, -0.0], jnp.bfloat16),
        "bool": jnp.array(True),
        "none": jnp.zeros((0, 4), jnp.int8),
        "host": np.arange(3, dtype=np.uint16),
        "host64": np.array(0.1, np.float64),
        "number": 7,
        "tuple": (1.5, ()),
    }
    arrays, manifest = pack(tree)
    back = unpack(arrays, manifest["key_impls"], tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert describe(back) == describe(tree)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert type(ours) is type(theirs)
    assert back["number"] == 7
    assert back["tuple"][0] == 1.5
    assert back["host64"].tobytes() == tree["host64"].tobytes()
    assert np.asarray(back["bf16"]).tobytes() == np.asarray(tree["bf16"]).tobytes()
    assert jnp.array_equal(jax.random.bits(back["rbg"][1]), jax.random.bits(tree["rbg"][1]))


def test_names_with_dots_and_slashes_do_not_collide():
    tree = {"a.b": jnp.float32(1), "a": {"b": jnp.float32(2)}, "a/b": jnp.float32(3)}
    arrays, manifest = pack(tree)
    assert len(arrays) == 3
    assert unpack(arrays, manifest["key_impls"], tree) == tree


class Now(NamedTuple):
    none: object
    a: object
    b: object


W, B = jnp.ones((2, 3)), jnp.ones(3)


@pytest.mark.parametrize(
    ("saved", "now", "says"),
    [
        ({"w": W}, {"w": jnp.ones((2, 4))}, r"w is float32\[2,3\] there and float32\[2,4\] here"),
        ({"w": W}, {"w": W.astype(jnp.bfloat16)}, r"float32\[2,3\] there and bfloat16\[2,3\] here"),
        ({"w": W}, {"w": W, "b": B}, r"b is missing there and float32\[3\] here"),
        ({"w": W, "b": B}, {"w": W}, r"b is float32\[3\] there and missing here"),
        ({"k": jax.random.key(0)}, {"k": jax.random.key(0, impl="rbg")}, r"key<fry>\[\] there and key<rbg>\[\] here"),
        ({str(i): W for i in range(9)}, {}, "; and 6 more; go back to the config"),
    ],
)
def test_a_state_that_does_not_fit_is_described(saved, now, says):
    with pytest.raises(CheckpointError, match=says):
        check_fit(describe(saved), now, "runs/a/checkpoints/5")


def test_leaves_in_another_order_are_found_by_their_paths():
    saved = {"b": B, "a": {"w": W, "k": jax.random.key(3)}, "none": jnp.zeros((0, 2))}
    arrays, manifest = pack(saved)
    now = Now(none=jnp.ones((0, 2)), a=(), b=jnp.zeros(3))._replace(a={"k": jax.random.key(0), "w": 0 * W})
    places = check_fit(manifest["leaves"], now, "")
    assert places == [3, 0, 1, 2]
    back = unpack(arrays, manifest["key_impls"], now, places)
    assert describe(back) == describe(now)
    assert jnp.array_equal(back.a["w"], W)
    assert jnp.array_equal(back.b, B)
    assert back.a["k"] == jax.random.key(3)


def test_paths_that_collide_are_not_told_apart():
    saved = describe({"a": {"b": W}, "a/b": 2 * W, "c": B})
    with pytest.raises(CheckpointError, match="the leaves come in another order"):
        check_fit([saved[2], *saved[:2]], {"a": {"b": W}, "a/b": 2 * W, "c": B}, "")


def test_an_average_of_the_parameters_alone_is_found_under_its_new_path():
    saved = describe({"ema": {"w": W}, "params": {"w": W}})
    assert check_fit(saved, {"ema": {"params": {"w": W}}, "params": {"w": W}}, "") == [0, 1]
    with pytest.raises(CheckpointError, match=r"ema/extras/mean is missing there and float32\[3\] here; go back"):
        check_fit(saved, {"ema": {"extras": {"mean": B}, "params": {"w": W}}, "params": {"w": W}}, "")
