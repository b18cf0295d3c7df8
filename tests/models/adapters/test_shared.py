"""What a model may return as extras, and leaves of every kind through `from_functions`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.shared import MODES, keep_dtypes, mode_arguments


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (jnp.zeros(2), jnp.ones(2, jnp.bfloat16), np.ones(2, np.float32)),
        (jnp.zeros(2, jnp.bfloat16), jnp.ones(2), jnp.ones(2, jnp.bfloat16)),
        (jnp.zeros(()), 3, np.float32(3)),
        (jnp.zeros((), jnp.int32), 3, np.int32(3)),
        (np.zeros(2, np.float32), np.ones(2), np.ones(2, np.float32)),
        (jnp.zeros(2, jnp.complex64), jnp.ones(2), np.ones(2, np.complex64)),
    ],
)
def test_extras_keep_their_dtype(old, new, expected):
    kept = keep_dtypes({"x": new, "none": None}, {"x": old, "none": None})["x"]
    assert kept.dtype == expected.dtype
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("old", "new"), [(jnp.int32, jnp.float32), (jnp.float32, jnp.complex64), (jnp.bool_, jnp.int32)]
)
def test_extras_are_not_rounded_to_another_kind(old, new):
    with pytest.raises(ShapeError, match=rf"extras 'n' in {jnp.dtype(old)}, got {jnp.dtype(new)}.*; start from"):
        keep_dtypes({"n": jnp.zeros(2, new)}, {"n": jnp.zeros(2, old)})


def test_leaves_of_all_kinds_through_functions():
    params = {"w": np.ones(3, np.float32), "c": np.ones(2, np.complex64), "i": np.arange(2), "none": None}
    extras = {"key": jax.random.key(0), "none": None, "flag": np.True_}
    model = from_functions(
        lambda key, batch: (params, extras), lambda params, extras, batch, *, key, train: (params["w"], extras)
    )
    made, carried = model.init(jax.random.key(0), {})
    assert made["none"] is None
    assert [x.dtype for x in jax.tree.leaves(made)] == [jnp.complex64, jnp.int32, jnp.float32]
    _, kept = model.apply(made, carried, {}, key=None, train=True)
    assert jax.tree.structure(kept) == jax.tree.structure(carried)


def test_every_mode_of_a_function_is_set():
    def everything(x, *args, train, training, is_training, deterministic, inference, use_running_average, **kwargs):
        raise AssertionError

    on = mode_arguments(everything, train=True)
    assert on == {name: name.endswith(("train", "training")) for name in MODES}
    assert mode_arguments(everything, train=False) == {name: not value for name, value in on.items()}
    assert mode_arguments(lambda x, *train: x, train=True) == {}
