"""A `Model` from a Flax NNX module. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.core.overrides import handed_on
from jaxprop.errors import JaxpropError
from jaxprop.models.adapters.dtypes import OPAQUE, computing_nnx
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.padding import unpadded_nnx
from jaxprop.models.adapters.quantizing import layers_of_nnx
from jaxprop.models.adapters.shared import (
    calling_with,
    expect_callable,
    expect_names,
    expect_same_leaves,
    given_to,
    mode_arguments,
    parameters_of,
    within_axis,
)
from jaxprop.models.adapters.tapping import tapped_nnx
from jaxprop.types import Batch, Model, PyTree

Call = Callable[[Any, Batch, nnx.Rngs, bool], Any]  # (module, batch, rngs, train) -> outputs

# Folded into a step's key where streams must not meet its draws, which fold in 0, 1, 2, ...
OWNED, NAMED = 2**31, 2**31 + 1


def from_nnx(
    factory: Callable[[nnx.Rngs], nnx.Module],
    call: Callable[..., Any] | None = None,
    taps: bool = True,
    *,
    rngs: Sequence[str] = (),
    wrt: Any = nnx.Param,
    axis_name: str | None = None,
) -> Model:
    """Makes a `Model` of a Flax NNX module; only plain nested dicts cross jit.

    The variables that `wrt` selects are the params; every other variable except random state and
    `nnx.Intermediate` is an extra, whatever its type. The mode is set by `module.train()` and `module.eval()`,
    and by each of the arguments `train`, `training`, `is_training`, `deterministic`, `inference` and
    `use_running_average` that the module's `__call__` has.

    In training, `nnx.BatchNorm` leaves examples of weight 0 out of its statistics.

    Random numbers depend on the key of each `apply` alone. Streams that the module owns are rebuilt from it. A
    `__call__` with an argument `rngs` receives `nnx.Rngs(key)`, with one more stream for each name in `rngs`;
    streams of other names draw from the first one. Evaluation without a key uses a constant one.

    Args:
      factory: `rngs -> nnx.Module`, traced abstractly here and run in `init`.
      call: `(module, batch) -> outputs`, for modules called in another way; it also receives `rngs` and `train` if it
        has arguments of these names. The default is `module(batch["inputs"], ...)`, or `module(batch, ...)` where its
        `__call__` has a parameter `batch`.
      taps: tap what every sub-module returns; False where the module calls `jaxprop.tap` itself.
      rngs: names of random streams that have a key of their own, such as `("dropout", "noise")`.
      wrt: an NNX filter, as `nnx.Optimizer` takes it; `nnx.LoRAParam` trains these alone, and the other parameters are
        extras, which keep their dtype under mixed precision.
      axis_name: name of the mapped axis that the module's layers reduce over, as `nnx.BatchNorm(axis_name=...)` does;
        a step computes the statistics of its whole batch, over all devices.

    Returns:
      A `Model` whose paths are the attributes' names, such as `blocks/0/attn/qkv/kernel`.

    Raises:
      JaxpropError: `factory` is not callable, is a module itself, or returns no `nnx.Module` or one that holds
        plain arrays instead of variables; `call` has arguments of other names.

    Example:
      >>> from jaxprop.core.trees import leaf_paths
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> leaf_paths(params), extras
      (['bias', 'kernel'], {})

    Reference:
      https://flax.readthedocs.io/en/latest/guides/randomness.html
    """
    if isinstance(factory, nnx.Module):
        name = type(factory).__name__
        raise JaxpropError(
            f"expected a factory rngs -> nnx.Module, got a {name}; write from_nnx(lambda rngs: {name}(..., rngs=rngs))"
        )
    expect_callable(factory, "factory", "rngs -> nnx.Module")
    expect_names(rngs, "rngs")
    factory = calling_with(factory, "rngs")
    abstract = nnx.eval_shape(lambda: _nnx_module(factory, nnx.Rngs(0)))
    call, takes_rngs = _nnx_call(abstract) if call is None else _custom_call(call)
    abstract.eval()
    eval_graph = nnx.split(abstract)[0]
    abstract.train()
    graph, _, random, _ = _nnx_split(abstract, wrt)
    graphs = {True: graph, False: eval_graph}
    draws = takes_rngs or bool(jax.tree.leaves(random))

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch  # an NNX module knows its shapes
        _, params, _, extras = _nnx_split(_nnx_module(factory, nnx.Rngs(key)), wrt)
        return params, extras

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        if key is None and train and draws:
            raise JaxpropError(
                "this model draws random numbers in training: expected apply(..., key=a PRNG key), got None"
            )
        key = jax.random.key(0) if key is None else _typed(key)
        owned, streams = key, nnx.Rngs()
        if takes_rngs:  # these draw as nnx.Rngs(key) does, so the module's own streams start elsewhere
            owned, streams = jax.random.fold_in(key, OWNED), _streams(key, rngs)
        module = nnx.merge(graphs[train], params, _random_state(random, owned), extras)
        with (
            layers_of_nnx(module),
            computing_nnx(module, params),
            unpadded_nnx(module, batch) if train else contextlib.nullcontext(),
            tapped_nnx(module) if taps else contextlib.nullcontext(),
        ):
            outputs = handed_on(call(module, batch, streams, train), OPAQUE)
        new = _nnx_split(module, wrt)[-1]
        expect_same_leaves(
            new,
            extras,
            who="the module's call",
            fix="create every variable in __init__; to use a sown value in the loss, return it from call=",
        )
        return outputs, new

    return from_functions(init, within_axis(apply, axis_name, "from_nnx"))


def _nnx_call(module: nnx.Module) -> tuple[Call, bool]:
    """How a module is called by default, and whether it receives random streams."""
    function = type(module).__call__
    takes_rngs = "rngs" in parameters_of(function)

    def call(module: Any, batch: Batch, rngs: nnx.Rngs, train: bool) -> Any:
        streams = {"rngs": rngs} if takes_rngs else {}
        return module(given_to(function, batch), **mode_arguments(function, train), **streams)

    return call, takes_rngs


def _custom_call(function: Callable[..., Any]) -> tuple[Call, bool]:
    """The user's `call` with the arguments that it asks for by name, and whether random streams are among them."""
    expect_callable(function, "call", "(module, batch) -> outputs")
    named = [name for name in ("rngs", "train") if name in parameters_of(function)]
    required = [p.name for p in parameters_of(function).values() if p.default is p.empty and p.name not in named]
    if len(required) > 2:
        raise JaxpropError(
            f"expected call to be (module, batch) -> outputs, with further arguments 'rngs' and 'train' only, "
            f"got the arguments {required + named}; rename them"
        )

    def call(module: Any, batch: Batch, rngs: nnx.Rngs, train: bool) -> Any:
        given = {"rngs": rngs, "train": train}
        return function(module, batch, **{name: given[name] for name in named})

    return call, "rngs" in named


def _streams(key: jax.Array, names: Sequence[str]) -> nnx.Rngs:
    """The default stream has the key itself, each named stream one of its own."""
    named = jax.random.fold_in(key, NAMED)
    return nnx.Rngs(key, **{name: jax.random.fold_in(named, i) for i, name in enumerate(names)})


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


def _nnx_split(module: nnx.Module, wrt: Any) -> tuple[Any, dict, dict, dict]:
    parts: Any = nnx.split(module, wrt, nnx.RngState, nnx.Intermediate, ...)
    graph, params, random, _, extras = parts
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(random), nnx.to_pure_dict(extras)


def _random_state(shapes: PyTree, key: jax.Array) -> PyTree:
    """NNX random state drawn from one key: leaf i gets `fold_in(key, i)`, every counter starts at 0."""
    leaves, treedef = jax.tree.flatten(shapes)

    def fresh(index: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        folded = jax.random.fold_in(key, index)
        return jax.random.split(folded, leaf.shape) if leaf.shape else folded

    return jax.tree.unflatten(treedef, [fresh(i, leaf) for i, leaf in enumerate(leaves)])


def _typed(key: jax.Array) -> jax.Array:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
