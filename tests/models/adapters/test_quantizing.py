"""Which layer of a module is called, as the adapters tell it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxprop
from jaxprop.models.adapters.quantizing import Scope, current_layer, scoped

KEY, BATCH = jax.random.key(0), {"inputs": jnp.ones((2, 4))}


def telling(told):
    return lambda x: (told.append(current_layer()), x)[1]


def nnx_model(told):
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, 4, rngs=rngs, dot_general=told_dot)

        def __call__(self, x):
            return told_x(self.dense(told_x(x)))

    told_x = telling(told)

    def told_dot(x, kernel, numbers, **options):
        return jax.lax.dot_general(told_x(x), kernel, numbers, **options)

    return jaxprop.from_nnx(lambda rngs: nnx.Sequential(Block(rngs), Block(rngs)))


def linen_model(told):
    told_x = telling(told)

    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x):
            return told_x(x) @ self.param("kernel", nn.initializers.ones, (4, 4))

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return told_x(Dense(name="dense")(told_x(x)))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="1")(Block(name="0")(x))

    return jaxprop.from_linen(Model())


@pytest.mark.parametrize("make", [nnx_model, linen_model])
@pytest.mark.parametrize("train", [True, False])
def test_the_innermost_layer_that_is_chosen(make, train):
    told = []
    model = make(told)
    params, extras = model.init(KEY, BATCH)
    inner = next(path for path in ("layers/1/dense", "1/dense") if path.split("/")[0] in params)
    scope = Scope()
    scope.layers = frozenset({inner, inner.removesuffix("/dense")})
    told.clear()
    with scoped(scope):
        model.apply(params, extras, BATCH, key=KEY, train=train)
    outer = inner.removesuffix("/dense")
    assert told == [None, None, None, outer, inner, outer]
    assert scope.entered
    told.clear()
    model.apply(params, extras, BATCH, key=KEY, train=train)
    assert told == [None] * 6


def test_a_layer_is_left_where_it_raises():
    def fails(x):
        raise RuntimeError

    model = jaxprop.from_nnx(lambda rngs: nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Sequential(fails)))
    params, extras = model.init(KEY, BATCH)
    scope = Scope()
    scope.layers = frozenset({"layers/1"})
    with scoped(scope), pytest.raises(RuntimeError):
        model.apply(params, extras, BATCH, key=KEY, train=True)
    assert current_layer() is None


def test_the_trace_of_a_layer_is_its_own():
    """jax keeps what it has traced by the shapes, and `told` hears of what is traced alone."""
    told = []
    seen = jax.jit(telling(told))
    scopes = [Scope(), Scope()]
    for scope in scopes:
        scope.layers = frozenset({"a", "b"})
        for path in ("a", "b", "c", "a"):
            with scope.calling(path):
                seen(1.0)
    assert told == ["a", "b", None, "a", "b"]  # the first scope's c serves the second one
