"""A `Model` from a Flax NNX module. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.errors import JaxpropError
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.shared import _call_inputs, _expect_callable
from jaxprop.models.adapters.tapping import tapped_nnx
from jaxprop.types import Batch, Model, PyTree


def from_nnx(
    factory: Callable[[nnx.Rngs], nnx.Module], call: Callable[[Any, Batch], Any] | None = None, taps: bool = True
) -> Model:
    """Makes a `Model` of a Flax NNX module; nothing but plain nested dicts crosses jit.

    `nnx.Param` variables are the params, every other variable but random state is an extra. Random
    state is rebuilt from the key of each `apply`, so that dropout depends on that key alone. The mode
    is set by `module.train()` and `module.eval()`.

    Args:
      factory: `rngs -> nnx.Module`, traced abstractly here and run in `init`.
      call: `(module, batch) -> outputs`; default `module(batch["inputs"])`.
      taps: tap what every sub-module returns; False where the module calls `jaxprop.tap` itself.

    Returns:
      A `Model` whose paths are the attributes' names, such as `blocks/0/attn/qkv/kernel`.

    Raises:
      JaxpropError: `factory` is not callable, is a module itself, or returns no `nnx.Module` or one that holds
        plain arrays instead of variables.

    Example:
      >>> from jaxprop.core.trees import leaf_paths
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> leaf_paths(params), extras
      (['bias', 'kernel'], {})
    """
    if isinstance(factory, nnx.Module):
        name = type(factory).__name__
        raise JaxpropError(
            f"expected a factory rngs -> nnx.Module, got a {name}; write from_nnx(lambda rngs: {name}(..., rngs=rngs))"
        )
    _expect_callable(factory, "factory", "rngs -> nnx.Module")
    call = _call_inputs if call is None else call

    abstract = nnx.eval_shape(lambda: _nnx_module(factory, nnx.Rngs(0)))
    abstract.eval()
    eval_graph = nnx.split(abstract)[0]
    abstract.train()
    graph, _, random, _ = _nnx_split(abstract)
    graphs = {True: graph, False: eval_graph}

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch  # an NNX module knows its shapes
        _, params, _, extras = _nnx_split(_nnx_module(factory, nnx.Rngs(key)))
        return params, extras

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        module = nnx.merge(graphs[train], params, _random_state(random, key, train), extras)
        with tapped_nnx(module) if taps else contextlib.nullcontext():
            outputs = call(module, batch)
        return outputs, _nnx_split(module)[-1]

    return from_functions(init, apply)


def _nnx_module(factory: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
    module = factory(rngs)
    if not isinstance(module, nnx.Module):
        raise JaxpropError(f"expected the factory to return an nnx.Module, got {type(module).__name__}")
    _expect_variables(module)
    return module


def _expect_variables(module: nnx.Module) -> None:
    # Inside a trace NNX takes a plain array for a constant of the graph and outside for a leaf, so neither fits.
    plain = [".".join(map(str, path)) for path, value in nnx.iter_graph(module) if isinstance(value, jax.Array)]
    if plain:
        raise JaxpropError(
            f"the module holds plain arrays, {', '.join(plain)}, which NNX does not follow through jit; "
            "wrap each one: self.name = nnx.Variable(array)"
        )


def _nnx_split(module: nnx.Module) -> tuple[Any, dict, dict, dict]:
    parts: Any = nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    graph, params, random, _, extras = parts
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(random), nnx.to_pure_dict(extras)


def _random_state(shapes: PyTree, key: Any, train: bool) -> PyTree:
    """NNX random state drawn from one key: leaf i gets `fold_in(key, i)`, every counter starts at 0."""
    leaves, treedef = jax.tree.flatten(shapes)
    if leaves and train and key is None:
        raise JaxpropError("this model draws random numbers in training: expected apply(..., key=a PRNG key), got None")
    key = jax.random.key(0) if key is None else _typed(key)

    def fresh(index: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        folded = jax.random.fold_in(key, index)
        return jax.random.split(folded, leaf.shape) if leaf.shape else folded

    return jax.tree.unflatten(treedef, [fresh(i, leaf) for i, leaf in enumerate(leaves)])


def _typed(key: jax.Array) -> jax.Array:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
