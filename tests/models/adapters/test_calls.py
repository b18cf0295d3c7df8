"""Interception of calls: of every sub-module, through copies of it, and of nothing once the context is closed."""

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxprop.models.adapters.calls import intercepted_nnx


class Pair(nnx.Module):
    def __init__(self):
        self.first, self.second = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(1))

    def __call__(self, x, scale=1.0):
        return self.second(self.first(x)) * scale


def counting(seen):
    def around(call, path, args, kwargs):
        seen.append((path, len(args), sorted(kwargs)))
        return call(*args, **kwargs)

    return around


def test_each_call_passes_by_with_its_arguments():
    model, seen = Pair(), []
    expected = model(jnp.ones((1, 2)), scale=2.0)
    with intercepted_nnx(model, "_a", counting(seen)):
        found = model(jnp.ones((1, 2)), scale=2.0)
    assert jnp.array_equal(found, expected)
    assert seen == [("output", 1, ["scale"]), ("first", 1, []), ("second", 1, [])]


def test_two_may_be_open_at_a_time_and_copies_keep_them():
    model, outer, inner = Pair(), [], []
    with intercepted_nnx(model, "_a", counting(outer)), intercepted_nnx(model, "_b", counting(inner)):
        nnx.merge(*nnx.split(model))(jnp.ones((1, 2)))
    assert [path for path, *_ in outer] == [path for path, *_ in inner] == ["output", "first", "second"]


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_module_is_as_it_was(fails):
    model, seen = Pair(), []
    attributes = set(vars(model.first))
    try:
        with intercepted_nnx(model, "_a", counting(seen)):
            if fails:
                raise KeyError
    except KeyError:
        pass
    model(jnp.ones((1, 2)))
    assert seen == []
    assert type(model) is Pair
    assert set(vars(model.first)) == attributes
