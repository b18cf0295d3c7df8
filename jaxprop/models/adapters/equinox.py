"""A `Model` from an Equinox module. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.errors import JaxpropError, MissingExtraError
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.shared import _as_dict, _expect_callable, _expect_pair, _from_dict, _inputs
from jaxprop.types import Batch, Model, PyTree


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
      >>> from jaxprop.core.trees import leaf_paths
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
