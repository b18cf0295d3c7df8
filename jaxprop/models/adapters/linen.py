"""A `Model` from a Flax Linen module. Pure."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxprop.core.overrides import handed_on
from jaxprop.errors import JaxpropError
from jaxprop.models.adapters.dtypes import OPAQUE, computing_linen
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.padding import unpadded_linen
from jaxprop.models.adapters.quantizing import layers_of_linen
from jaxprop.models.adapters.shared import (
    expect_callable,
    expect_names,
    expect_same_leaves,
    given_to,
    mode_arguments,
    same_leaves,
    within_axis,
)
from jaxprop.models.adapters.tapping import tapped_linen
from jaxprop.types import Batch, Model, PyTree

TRANSIENT = ("intermediates", "perturbations")  # collections that Linen fills anew in each call


class LinenOutputs(NamedTuple):
    """What a module returned and what it sowed; the outputs of `from_linen(module, collections=...)`.

    Args:
      value: what the module returned.
      collections: the sown values of each collection asked for, as nested dicts of tuples; `{}` for one into which a
        call in evaluation mode sowed nothing.
    """

    value: Any
    collections: dict[str, PyTree]


def from_linen(
    module: nn.Module,
    call: Callable[..., Any] | None = None,
    rngs: Sequence[str] = ("dropout",),
    taps: bool = True,
    *,
    collections: Sequence[str] = (),
    axis_name: str | None = None,
) -> Model:
    """Makes a `Model` of a Flax Linen module.

    The collection `params` holds the params; every other collection is an extra, which `apply` updates in training
    only. By default the module is called as `module(batch["inputs"])`, or `module(batch)` where its `__call__` has a
    parameter `batch`, with each of the arguments `train`, `training`, `is_training`, `deterministic`, `inference` and
    `use_running_average` that its `__call__` has, unless the module has an attribute of that name that is set.

    Sown values (`self.sow("losses", ...)`) are no state. As in Linen itself they are dropped unless they are asked
    for: with `collections=("losses",)` the outputs are `LinenOutputs(value, collections)`, so that the loss can add
    them; metrics then read `outputs.value`.

    Args:
      module: a Linen module, not yet bound.
      call: `(module, batch, train) -> outputs`, for modules called in another way; `train` may be left out.
      rngs: names of the random streams the module draws from besides `params`; each has a key of its own, derived
        from the step's.
      taps: tap what every sub-module returns; False where the module calls `jaxprop.tap` itself.
      collections: names of sown collections to return beside the outputs, such as `("losses", "intermediates")`.
      axis_name: name of the mapped axis that the module's layers reduce over, as `nn.BatchNorm(axis_name=...)` does;
        a step computes the statistics of its whole batch, over all devices.

    Returns:
      A `Model`.

    Raises:
      JaxpropError: `module` is not a Linen module, or `call` has other arguments; when called in training, nothing is
        sown into one of `collections`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.losses.softmax import softmax_cross_entropy
      >>> class Router(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         self.sow("losses", "balance", jnp.mean(x**2))
      ...         return nn.Dense(2)(x)
      >>> model = from_linen(Router(), collections=("losses",))
      >>> batch = {"inputs": jnp.ones((4, 3)), "labels": jnp.zeros(4, jnp.int32)}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> def loss(outputs, batch):
      ...     per_example, weight = softmax_cross_entropy(outputs.value, batch)
      ...     return per_example + sum(jax.tree.leaves(outputs.collections["losses"])), weight
      >>> outputs, extras = model.apply(params, extras, batch, key=None, train=True)
      >>> loss(outputs, batch)[0].shape, float(outputs.collections["losses"]["balance"][0]), extras
      ((4,), 1.0, {})

    Reference:
      https://flax-linen.readthedocs.io/en/latest/guides/model_inspection/extracting_intermediates.html
    """
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise JaxpropError(f"expected a flax.linen.Module instance, got {got}")
    expect_names(rngs, "rngs")
    expect_names(collections, "collections")
    call = _linen_call(module) if call is None else _custom_call(call)

    def streams(key: jax.Array) -> dict[str, jax.Array]:
        # The first stream keeps the key itself, so that a model with dropout alone draws as in plain Linen.
        return {name: jax.random.fold_in(key, i) if i else key for i, name in enumerate(rngs)}

    def initial(key: jax.Array, batch: Batch) -> PyTree:
        params_key, streams_key = jax.random.split(key)
        drawn = {"params": params_key, **streams(streams_key)}
        return nn.meta.unbox(module.init(drawn, batch, False, method=call))

    def forward(variables: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        state = [name for name in variables if train and name != "params"]
        drawn = {} if key is None else streams(key)
        casting = computing_linen(variables.get("params", {}))
        with layers_of_linen(), casting, _training(batch, taps) if train else contextlib.nullcontext():
            outputs, new = module.apply(
                variables, batch, train, rngs=drawn, method=call, mutable=[*state, *collections]
            )
            outputs = handed_on(outputs, OPAQUE)
        return outputs, {**variables, **nn.meta.unbox(new)}

    initial, forward = (within_axis(function, axis_name, "from_linen") for function in (initial, forward))

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        variables = {
            name: value for name, value in initial(key, batch).items() if name not in (*TRANSIENT, *collections)
        }
        variables.setdefault("params", {})
        if _has_tuples(variables):
            # A sown tuple grows with every call, whereas a tuple of state does not.
            called = jax.eval_shape(lambda key: forward(variables, batch, key=key, train=True)[1], key)
            variables = {name: v for name, v in variables.items() if same_leaves(called[name], v)}
        return variables.pop("params"), variables

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        outputs, new = forward({"params": params, **extras}, batch, key=key, train=train)
        del new["params"]
        sown = {name: new.pop(name, {}) for name in collections}
        if train:
            _expect_sown(sown)
            fix = "create every variable in evaluation too, since init calls the module so"
            expect_same_leaves(new, extras, who="the module's call in training", fix=fix)
        return LinenOutputs(outputs, sown) if collections else outputs, new

    return from_functions(init, apply)


@contextlib.contextmanager
def _training(batch: Batch, taps: bool) -> Iterator[None]:
    with unpadded_linen(batch), tapped_linen() if taps else contextlib.nullcontext():
        yield


def _linen_call(module: nn.Module) -> Callable[[Any, Batch, bool], Any]:
    function = type(module).__call__

    def call(bound: Any, batch: Batch, train: bool) -> Any:
        modes = mode_arguments(function, train)
        # nn.merge_param refuses a mode that is given twice.
        unset = {name: mode for name, mode in modes.items() if getattr(module, name, None) is None}
        return bound(given_to(function, batch), **unset)

    return call


def _custom_call(function: Callable[..., Any]) -> Callable[[Any, Batch, bool], Any]:
    """The user's `call`, with or without `train` among its arguments."""
    expect_callable(function, "call", "(module, batch, train) -> outputs")
    if _takes(function, None, None, False):
        return function
    if _takes(function, None, None, train=False):
        return lambda module, batch, train: function(module, batch, train=train)
    if _takes(function, None, None):
        return lambda module, batch, _train: function(module, batch)
    got = list(inspect.signature(function).parameters)
    raise JaxpropError(
        f"expected call to be (module, batch) or (module, batch, train) -> outputs, got the arguments {got}"
    )


def _takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _has_tuples(tree: PyTree) -> bool:
    return any(isinstance(node, tuple) for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, tuple)))


def _expect_sown(sown: dict[str, PyTree]) -> None:
    for name, values in sown.items():
        if not jax.tree.leaves(values):
            raise JaxpropError(
                f"the module sows nothing into the collection {name!r}; name one of its self.sow(collection, ...) "
                "in collections=, or leave the argument out"
            )
