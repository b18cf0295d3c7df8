"""A `Model` from an Equinox module. Pure."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.overrides import handed_on
from jaxprop.errors import JaxpropError, MissingExtraError
from jaxprop.models.adapters.dtypes import computing_equinox
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.shared import (
    as_dict,
    calling_with,
    expect_callable,
    expect_pair,
    from_dict,
    given_to,
    mode_arguments,
    parameters_of,
)
from jaxprop.models.adapters.tapping import tapped_equinox
from jaxprop.types import Batch, Model, PyTree

Call = Callable[[Any, Any, Batch, Any], tuple[Any, Any]]  # (module, state, batch, key) -> (outputs, state)


def from_equinox(module: Any, call: Call | None = None, taps: bool = True) -> Model:
    """Makes a `Model` of an Equinox module, called on one example at a time under `vmap`.

    Floating-point and complex arrays are the params; `eqx.nn.State` and other arrays are extras. By default the
    module is called as `module(x)` over `batch["inputs"]`, or `module(batch)` over the batch where its `__call__` has a
    parameter `batch`, with these arguments if its `__call__` has them: `state`;
    `key`, a key for each example; `inference`, `train`, `training`, `is_training`, `deterministic` and
    `use_running_average`, set to training or evaluation. Attributes called `inference` are set by
    `eqx.nn.inference_mode`. In evaluation without a key, `key` is None where that is its default, and else constant.

    The mapped axis is called "batch", the name that `eqx.nn.BatchNorm` reduces over; in bfloat16 that layer needs
    its `mode="batch"`. A state must be the same for all examples, as it is after a reduction over that axis.

    Args:
      module: a factory `key -> module` (a class will do), a factory made by `eqx.nn.make_with_state`, or a
        module, whose own arrays `init` then copies.
      call: `(module, state, batch, key) -> (outputs, state)`, for modules called in another way.
      taps: tap what every sub-module returns; False where the module calls `jaxprop.tap` itself.

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

    Reference:
      https://docs.kidger.site/equinox/api/nn/stateful/
    """
    eqx = _equinox()
    make = _equinox_factory(eqx, module)
    abstract, abstract_state = eqx.filter_eval_shape(make, jax.random.key(0))
    if not isinstance(abstract, eqx.Module):
        raise JaxpropError(f"expected the factory to return an equinox.Module, got {type(abstract).__name__}")
    weights, rest = eqx.partition(abstract, _is_inexact)
    buffers, static = eqx.partition(rest, _is_array)
    state_tree = jax.tree.structure(abstract_state)
    run = _equinox_call(eqx, type(abstract)) if call is None else _custom_call(call)

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch  # an Equinox module knows its shapes
        module, state = make(key)
        extras = {"buffers": as_dict(module, buffers), "state": dict(enumerate(jax.tree.leaves(state)))}
        return as_dict(module, weights), {name: extra for name, extra in extras.items() if extra}

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        arrays = from_dict(params, weights), from_dict(extras.get("buffers", {}), buffers)
        module = eqx.nn.inference_mode(eqx.combine(*arrays, static), value=not train)
        leaves = extras.get("state", {})
        state = jax.tree.unflatten(state_tree, [leaves[i] for i in range(len(leaves))])
        with (
            computing_equinox(module, params) as casting,
            tapped_equinox(casting) if taps else contextlib.nullcontext(casting) as called,
        ):
            returned = run(called, state, batch, key, train)
            outputs, state = expect_pair(returned, "call", "(outputs, state)", "return outputs, state")
            outputs = handed_on(outputs, (eqx.Module, eqx.nn.State))
        if not (train and leaves):
            return outputs, extras
        return outputs, {**extras, "state": dict(enumerate(jax.tree.leaves(state)))}

    return from_functions(init, apply)


def _equinox() -> Any:
    try:
        import equinox
    except ModuleNotFoundError as error:
        raise MissingExtraError("equinox", "from_equinox") from error
    return equinox


def _equinox_factory(eqx: Any, module: Any) -> Callable[[jax.Array], tuple[Any, Any]]:
    """A function `key -> (module, state)`, whatever the user gave."""
    if isinstance(module, eqx.Module):
        # init's arrays are donated to the train step, so they must not be the user's own
        return eqx.nn.make_with_state(lambda _: jax.tree.map(lambda x: jnp.array(x) if eqx.is_array(x) else x, module))
    expect_callable(module, "module", "an equinox.Module or a factory key -> equinox.Module")
    module = calling_with(module, "key")
    made = eqx.filter_eval_shape(module, jax.random.key(0))
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State):
        return module
    return eqx.nn.make_with_state(module)


def _custom_call(call: Call) -> Callable[..., tuple[Any, Any]]:
    expect_callable(call, "call", "(module, state, batch, key) -> (outputs, state)")

    def run(module: Any, state: Any, batch: Batch, key: Any, train: bool) -> tuple[Any, Any]:
        del train  # the module's attributes tell it
        return call(module, state, batch, key)

    return run


def _equinox_call(eqx: Any, kind: type) -> Callable[..., tuple[Any, Any]]:
    """How a module of a class is called by default: `(module, state, batch, key, train) -> (outputs, state)`."""
    accepted = parameters_of(kind.__call__)
    needs_key = "key" in accepted and accepted["key"].default is inspect.Parameter.empty
    # Equinox's own layers read the attribute that inference_mode sets, and some warn about an older argument.
    own = kind.__module__.startswith(f"{eqx.__name__}.")

    def call(module: Any, state: Any, batch: Batch, key: Any, train: bool) -> tuple[Any, Any]:
        inputs = given_to(kind.__call__, batch)
        modes = {} if own else mode_arguments(kind.__call__, train)
        key = jax.random.key(0) if key is None and needs_key else key
        keys = None if key is None else jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0])

        def one(x: Any, state: Any, key: Any) -> tuple[Any, Any]:
            arguments = {**modes, **({"key": key} if "key" in accepted else {})}
            return module(x, state=state, **arguments) if "state" in accepted else (module(x, **arguments), state)

        axes = (0, None, None if keys is None else 0)
        try:
            return jax.vmap(one, in_axes=axes, out_axes=(0, None), axis_name="batch")(inputs, state, keys)
        except ValueError as error:
            if "out_axes is None" not in str(error):
                raise
            raise JaxpropError(
                "the module's state differs from example to example; reduce it over the batch before state.set, "
                "as jax.lax.pmean(x, 'batch') does, or pass call="
            ) from error

    return call


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)


def _is_inexact(x: Any) -> bool:
    return _is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)
