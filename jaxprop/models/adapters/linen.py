"""A `Model` from a Flax Linen module. Pure."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxprop.errors import JaxpropError
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.shared import _inputs
from jaxprop.models.adapters.tapping import tapped_linen
from jaxprop.types import Batch, Model, PyTree

# How a Linen `__call__` says whether it trains, and what it then receives.
LINEN_MODES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}


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
      >>> import jax.numpy as jnp
      >>> from jaxprop.core.trees import leaf_paths
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
