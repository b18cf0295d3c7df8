"""Models of any framework as `Model(init, apply)`: plain functions, Flax NNX, Flax Linen, Equinox."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.errors import JaxpropError, MissingExtraError, ShapeError
from jaxprop.models.tapping import tapped_linen, tapped_nnx
from jaxprop.trees import leaf_paths
from jaxprop.types import Batch, Model, PyTree

# How a Linen `__call__` says whether it trains, and what it then receives.
LINEN_MODES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}


# -- plain functions ----------------------------------------------------------------------------


def from_functions(init: Callable[..., Any], apply: Callable[..., Any]) -> Model:
    """Makes a `Model` of two plain functions and checks what they return.

    Args:
      init: `(key, batch) -> (params, extras)`; return `{}` where there are no extras.
      apply: `(params, extras, batch, *, key, train) -> (outputs, extras)`. Extras keep their
        structure and shapes; they are cast back to the dtypes they came in.

    Returns:
      A `Model`.

    Raises:
      JaxpropError: an argument is not callable, or a function returns something else.
      ShapeError: `apply` returns extras of another structure or other shapes.

    Example:
      >>> def init(key, batch):
      ...     return {"kernel": jax.random.normal(key, (batch["inputs"].shape[1], 2))}, {}
      >>> def apply(params, extras, batch, *, key, train):
      ...     return batch["inputs"] @ params["kernel"], extras
      >>> model = from_functions(init, apply)
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> outputs, extras = model.apply(params, extras, batch, key=None, train=False)
      >>> outputs.shape
      (4, 2)
    """
    _expect_callable(init, "init", "(key, batch) -> (params, extras)")
    _expect_callable(apply, "apply", "(params, extras, batch, *, key, train) -> (outputs, extras)")

    def checked_init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, extras = _expect_pair(init(key, batch), "init", "(params, extras)", "return params, {}")
        return jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, extras)

    def checked_apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        returned = apply(params, extras, batch, key=key, train=train)
        outputs, new = _expect_pair(returned, "apply", "(outputs, extras)", "return outputs, extras")
        return outputs, _keep_dtypes(new, extras)

    return Model(checked_init, checked_apply)


# -- Flax NNX -----------------------------------------------------------------------------------


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


# -- Flax Linen ---------------------------------------------------------------------------------


def from_linen(
    module: nn.Module,
    call: Callable[[Any, Batch, bool], Any] | None = None,
    rngs: Sequence[str] = ("dropout",),
    taps: bool = True,
) -> Model:
    """Makes a `Model` of a Flax Linen module.

    The collection `params` holds the params, every other collection is an extra; `apply` updates them
    in training only. Each random stream has a key of its own, from the step's. By default the module is called as
    `module(batch["inputs"])`, with the first of the arguments `train`, `training`, `is_training`,
    `deterministic` or `use_running_average` that its `__call__` has set to fit the mode.

    Args:
      module: a Linen module, not yet bound.
      call: `(module, batch, train) -> outputs`, for modules called in another way.
      rngs: names of the random streams the module draws from besides `params`.
      taps: tap what every sub-module returns; False where the module calls `jaxprop.tap` itself.

    Returns:
      A `Model`.

    Raises:
      JaxpropError: `module` is not a Linen module.

    Example:
      >>> model = from_linen(nn.Dense(2))
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> leaf_paths(params), extras
      (['bias', 'kernel'], {})
    """
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise JaxpropError(f"expected a flax.linen.Module instance, got {got}")
    call = _linen_call(module) if call is None else call

    def streams(key: jax.Array) -> dict[str, jax.Array]:
        # The first stream keeps the key itself, so that a model with dropout alone draws as in plain Linen.
        return {name: jax.random.fold_in(key, i) if i else key for i, name in enumerate(rngs)}

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params_key, streams_key = jax.random.split(key)
        drawn = {"params": params_key, **streams(streams_key)}
        variables = dict(nn.meta.unbox(module.init(drawn, batch, False, method=call)))
        return variables.pop("params", {}), variables

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        variables = {"params": params, **extras}
        drawn = {} if key is None else streams(key)
        if not train:
            return module.apply(variables, batch, train, rngs=drawn, method=call), extras
        with tapped_linen() if taps else contextlib.nullcontext():
            outputs, new = module.apply(variables, batch, train, rngs=drawn, method=call, mutable=sorted(extras))
        return outputs, {**extras, **new}

    return from_functions(init, apply)


def _linen_call(module: nn.Module) -> Callable[[Any, Batch, bool], Any]:
    accepted = inspect.signature(type(module).__call__).parameters
    mode = next((name for name in LINEN_MODES if name in accepted), None)

    def call(bound: Any, batch: Batch, train: bool) -> Any:
        if mode is None:
            return bound(_inputs(batch))
        return bound(_inputs(batch), **{mode: LINEN_MODES[mode](train)})

    return call


# -- Equinox ------------------------------------------------------------------------------------


def from_equinox(module: Any, call: Callable[[Any, Any, Batch, Any], tuple[Any, Any]] | None = None) -> Model:
    """Makes a `Model` of an Equinox module, called on one example at a time under `vmap`.

    Floating-point arrays are the params; `eqx.nn.State` and other arrays are extras. By default the
    module is called as `module(x)` over `batch["inputs"]`, with `state` and a `key` of the example's own
    if its `__call__` has arguments of these names; the mapped axis is named "batch", the name that
    `eqx.nn.BatchNorm` reduces over; for bfloat16 it needs its `mode="batch"`. Evaluation runs under
    `eqx.nn.inference_mode`.

    Args:
      module: a factory `key -> module` (a class will do), a factory made by `eqx.nn.make_with_state`, or a
        module, whose own arrays `init` then copies.
      call: `(module, state, batch, key) -> (outputs, state)`, for modules called in another way.

    Returns:
      A `Model` whose paths are the attributes' names, such as `layers/0/weight`.

    Raises:
      MissingExtraError: Equinox is not installed.
      JaxpropError: `module` is no module and no factory of one.

    Example:
      >>> import equinox as eqx
      >>> model = from_equinox(lambda key: eqx.nn.MLP(3, 2, width_size=8, depth=1, key=key))
      >>> batch = {"inputs": jnp.ones((4, 3))}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> leaf_paths(params)
      ['layers/0/bias', 'layers/0/weight', 'layers/1/bias', 'layers/1/weight']
    """
    eqx = _equinox()
    make = _equinox_factory(eqx, module)
    abstract, abstract_state = eqx.filter_eval_shape(make, jax.random.key(0))
    if not isinstance(abstract, eqx.Module):
        raise JaxpropError(f"expected the factory to return an equinox.Module, got {type(abstract).__name__}")
    weights, rest = eqx.partition(abstract, _is_inexact)
    buffers, static = eqx.partition(rest, _is_array)
    state_tree = jax.tree.structure(abstract_state)
    call = _equinox_call if call is None else call

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch  # an Equinox module knows its shapes
        module, state = make(key)
        extras = {"buffers": _as_dict(module, buffers), "state": dict(enumerate(jax.tree.leaves(state)))}
        return _as_dict(module, weights), {name: extra for name, extra in extras.items() if extra}

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        arrays = _from_dict(params, weights), _from_dict(extras.get("buffers", {}), buffers)
        module = eqx.nn.inference_mode(eqx.combine(*arrays, static), value=not train)
        leaves = extras.get("state", {})
        state = jax.tree.unflatten(state_tree, [leaves[i] for i in range(len(leaves))])
        outputs, state = _expect_pair(
            call(module, state, batch, key), "call", "(outputs, state)", "return outputs, state"
        )
        if not (train and leaves):
            return outputs, extras
        return outputs, {**extras, "state": dict(enumerate(jax.tree.leaves(state)))}

    return from_functions(init, apply)


def _equinox() -> Any:
    try:
        import equinox
    except ModuleNotFoundError as error:
        raise MissingExtraError("equinox", "equinox", "from_equinox") from error
    return equinox


def _equinox_factory(eqx: Any, module: Any) -> Callable[[jax.Array], tuple[Any, Any]]:
    """A function `key -> (module, state)`, whatever the user gave."""
    if isinstance(module, eqx.Module):
        # init's arrays are donated to the train step, so they must not be the user's own
        return eqx.nn.make_with_state(lambda _: jax.tree.map(lambda x: jnp.array(x) if eqx.is_array(x) else x, module))
    _expect_callable(module, "module", "an equinox.Module or a factory key -> equinox.Module")
    made = eqx.filter_eval_shape(module, jax.random.key(0))
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State):
        return module
    return eqx.nn.make_with_state(module)


def _equinox_call(module: Any, state: Any, batch: Batch, key: Any) -> tuple[Any, Any]:
    accepted = inspect.signature(type(module).__call__).parameters
    inputs = _inputs(batch)
    keys = None if key is None else jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0])

    def one(x: Any, state: Any, key: Any) -> tuple[Any, Any]:
        arguments = {"key": key} if "key" in accepted else {}
        return module(x, state, **arguments) if "state" in accepted else (module(x, **arguments), state)

    axes = (0, None, None if keys is None else 0)
    return jax.vmap(one, in_axes=axes, out_axes=(0, None), axis_name="batch")(inputs, state, keys)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)


def _is_inexact(x: Any) -> bool:
    return _is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def _keys(path: tuple[Any, ...]) -> list[Any]:
    """A path as dict keys; list indices stay ints, so that layer 10 sorts after layer 2."""
    return [getattr(k, next(a for a in ("key", "idx", "name") if hasattr(k, a))) for k in path]


def _as_dict(module: Any, wanted: Any) -> dict:
    """The leaves of `module` that `wanted` has too, as a nested dict."""
    paths = {path for path, _ in jax.tree_util.tree_flatten_with_path(wanted)[0]}
    nested: dict = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(module)[0]:
        if path in paths:
            *parents, last = _keys(path)
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
    return nested


def _from_dict(nested: PyTree, wanted: Any) -> Any:
    """Inverse of `_as_dict`: the structure of `wanted` with the leaves of the nested dict."""

    def leaf(path: tuple[Any, ...], _: Any) -> Any:
        node = nested
        for key in _keys(path):
            node = node[key]
        return node

    return jax.tree_util.tree_map_with_path(leaf, wanted)


# -- checks -------------------------------------------------------------------------------------


def _inputs(batch: Batch) -> Any:
    if "inputs" not in batch:
        raise JaxpropError(f"expected batch['inputs'], got the keys {sorted(batch)}; pass call= to use other keys")
    return batch["inputs"]


def _call_inputs(module: Any, batch: Batch) -> Any:
    return module(_inputs(batch))


def _expect_callable(function: Any, name: str, signature: str) -> None:
    if not callable(function):
        raise JaxpropError(f"expected {name} to be {signature}, got {type(function).__name__}")


def _expect_pair(returned: Any, name: str, pair: str, fix: str) -> tuple[Any, Any]:
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise JaxpropError(f"expected {name} to return {pair}, got {type(returned).__name__}; write: {fix}")
    return returned


def _same_structure(a: PyTree, b: PyTree) -> bool:
    treedefs: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    return treedefs[0] == treedefs[1]


def _keep_dtypes(new: PyTree, old: PyTree) -> PyTree:
    """Extras in the dtypes they came in: another dtype or structure would recompile the step."""
    if not _same_structure(new, old):
        raise ShapeError(
            f"expected apply to return extras with the leaves {leaf_paths(old)}, got {leaf_paths(new)}; "
            "return the extras it was given, updated"
        )

    def keep(path: str, new: Any, old: Any) -> Any:
        if jnp.shape(new) != jnp.shape(old):
            raise ShapeError(f"expected apply to keep extras {path!r} at {jnp.shape(old)}, got {jnp.shape(new)}")
        return new if new.dtype == old.dtype else new.astype(old.dtype)

    leaves, treedef = jax.tree.flatten(old)
    return jax.tree.unflatten(treedef, map(keep, leaf_paths(old), jax.tree.leaves(new), leaves))
