"""What the adapters share: inputs and modes of a call, nested dicts, and checks of what a model returns. Pure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.types import Batch, PyTree

# The names by which a `__call__` asks whether it trains, and the value each one then receives.
MODES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "inference": lambda train: not train,
    "use_running_average": lambda train: not train,
}


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a function, without `*args` and `**kwargs`.

    Example:
      >>> list(parameters_of(lambda x, *args, train=False: x))
      ['x', 'train']
    """
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(function).parameters.items() if p.kind not in several}


def mode_arguments(function: Callable[..., Any], train: bool) -> dict[str, bool]:
    """Returns every mode argument that a function has, set to training or evaluation.

    Args:
      function: such as the `__call__` of a module's class.
      train: whether the call is one of training.

    Returns:
      Keyword arguments, one for each name of `MODES` among the function's parameters.

    Example:
      >>> mode_arguments(lambda x, deterministic, use_running_average: x, train=True)
      {'deterministic': False, 'use_running_average': False}
    """
    accepted = parameters_of(function)
    return {name: value(train) for name, value in MODES.items() if name in accepted}


def calling_with(factory: Callable[..., Any], name: str) -> Callable[[Any], Any]:
    """Returns a factory as a function of one positional argument, for those that take it by keyword only.

    Args:
      factory: a function or class of one required argument.
      name: that argument's usual name, such as `rngs` or `key`.

    Example:
      >>> def make(*, rngs):
      ...     return rngs
      >>> calling_with(make, "rngs")(3)
      3
    """
    function: Any = factory
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):  # whose own signature may be hidden behind that of its metaclass
        function = inspect.getattr_static(function, "__init__")
    parameter = parameters_of(function).get(name)
    if parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        return lambda value: factory(**{name: value})
    return factory


def inputs_of(batch: Batch) -> Any:
    """Returns `batch["inputs"]`.

    Raises:
      JaxpropError: the batch has no such key.

    Example:
      >>> inputs_of({"inputs": 1, "labels": 2})
      1
    """
    if "inputs" not in batch:
        raise JaxpropError(
            f"expected batch['inputs'], got the keys {sorted(batch)}; pass call= to use other keys, or call the "
            "parameter of __call__ batch"
        )
    return batch["inputs"]


def given_to(function: Callable[..., Any], batch: Batch) -> Any:
    """Returns what a `__call__` is given: the batch where it has a parameter of that name, otherwise `batch["inputs"]`.

    Example:
      >>> given_to(lambda batch, train: batch, {"inputs": 1}), given_to(lambda x: x, {"inputs": 1})
      ({'inputs': 1}, 1)
    """
    return batch if "batch" in parameters_of(function) else inputs_of(batch)


def within_axis(function: Callable[..., Any], axis_name: str | None, adapter: str) -> Callable[..., Any]:
    """Binds the name of a mapped axis for a model that reduces over it, such as a synchronized BatchNorm.

    The train step is one program over the whole batch, on every device of its mesh: a mean over the batch is already
    a mean over all devices, so the axis has size 1. Inside a `shard_map` that binds the axis, that axis counts.

    Args:
      function: any function that returns arrays.
      axis_name: the name, or None to bind none.
      adapter: the function whose argument `axis_name` an error names.

    Returns:
      The function with the axis bound.

    Raises:
      JaxpropError: when called, if the function reduces over an axis that nothing binds.

    Example:
      >>> mean = within_axis(lambda x: jax.lax.pmean(x, "devices"), "devices", "from_linen")
      >>> mean(jnp.ones(2)).tolist()
      [1.0, 1.0]
    """

    def bound(*args: Any, **kwargs: Any) -> Any:
        try:
            if axis_name is None or _is_bound(axis_name):
                return function(*args, **kwargs)
            mapped = jax.vmap(lambda _: function(*args, **kwargs), axis_name=axis_name)
            return jax.tree.map(lambda x: x[0], mapped(jnp.zeros(1)))
        except NameError as error:
            if "unbound axis name" not in str(error):
                raise
            name = str(error).split("axis name: ")[-1].split(".")[0].strip("`'\"")
            raise JaxpropError(
                f"the model reduces over the axis {name!r}, which nothing binds; write "
                f"{adapter}(..., axis_name={name!r}), since the step's mean over its batch is over all devices already"
            ) from error

    return bound


def _is_bound(axis_name: str) -> bool:
    """Whether a shard_map or vmap of the user's binds the axis, over which the model then reduces."""
    try:
        jax.lax.psum(1, axis_name)
    except NameError:
        return False
    return True


# -- nested dicts ---------------------------------------------------------------------------------


def as_dict(module: Any, wanted: Any) -> dict:
    """Returns the leaves of `module` that `wanted` has too, as a nested dict.

    Example:
      >>> as_dict([1, {"a": 2}], [None, {"a": 0}])
      {1: {'a': 2}}
    """
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


def from_dict(nested: PyTree, wanted: Any) -> Any:
    """Returns the structure of `wanted` with the leaves of a nested dict: the inverse of `as_dict`.

    Example:
      >>> from_dict({1: {"a": 2}}, [None, {"a": 0}])
      [None, {'a': 2}]
    """

    def leaf(path: tuple[Any, ...], _: Any) -> Any:
        node = nested
        for key in _keys(path):
            node = node[key]
        return node

    return jax.tree_util.tree_map_with_path(leaf, wanted)


def _keys(path: tuple[Any, ...]) -> list[Any]:
    """A path as dict keys; list indices stay ints, so that layer 10 sorts after layer 2."""
    return [getattr(k, next(a for a in ("key", "idx", "name") if hasattr(k, a))) for k in path]


# -- checks ---------------------------------------------------------------------------------------


def expect_callable(function: Any, name: str, signature: str) -> None:
    """Raises JaxpropError where an argument that should be a function is none.

    Example:
      >>> expect_callable(len, "init", "(key, batch) -> (params, extras)")
    """
    if not callable(function):
        raise JaxpropError(f"expected {name} to be {signature}, got {type(function).__name__}")


def expect_names(names: Any, argument: str) -> None:
    """Raises JaxpropError where names are one string, whose letters would be taken for them.

    Example:
      >>> expect_names(("dropout", "noise"), "rngs")
    """
    if isinstance(names, str):
        raise JaxpropError(f"expected {argument} to be several names, got a string; write {argument}=({names!r},)")


def expect_pair(returned: Any, name: str, pair: str, fix: str) -> tuple[Any, Any]:
    """Returns what a function returned, or raises JaxpropError where it is not a pair.

    Example:
      >>> expect_pair((1, {}), "init", "(params, extras)", "return params, {}")
      (1, {})
    """
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise JaxpropError(f"expected {name} to return {pair}, got {type(returned).__name__}; write: {fix}")
    return returned


def same_leaves(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees are of one structure.

    Example:
      >>> same_leaves({"a": 1}, {"a": 2}), same_leaves({"a": 1}, {"b": 1})
      (True, False)
    """
    treedefs: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    return treedefs[0] == treedefs[1]


def expect_same_leaves(new: PyTree, old: PyTree, who: str, fix: str) -> None:
    """Raises ShapeError where new extras have other leaves than the old ones.

    Args:
      new, old: the extras that were returned, and those that were given.
      who: what returned them, for the error.
      fix: what to do, for the error.

    Example:
      >>> expect_same_leaves({"mean": 1}, {"mean": 0}, "apply", "return the extras it was given, updated")
    """
    if not same_leaves(new, old):
        raise ShapeError(
            f"expected {who} to return extras with the leaves {leaf_paths(old)}, got {leaf_paths(new)}; {fix}"
        )


def keep_dtypes(new: PyTree, old: PyTree) -> PyTree:
    """Returns new extras in the dtypes of the old ones: another dtype would recompile the step.

    Args:
      new, old: the extras that a model returned, and those that it was given.

    Returns:
      `new`, cast.

    Raises:
      ShapeError: the new extras have other leaves or shapes, or a dtype that does not fit into the old one's kind.

    Example:
      >>> keep_dtypes({"mean": jnp.ones(2, jnp.bfloat16)}, {"mean": jnp.zeros(2)})["mean"].dtype
      dtype('float32')
    """
    expect_same_leaves(new, old, who="apply", fix="return the extras it was given, updated")

    def keep(path: str, new: Any, old: Any) -> Any:
        new, old = jnp.asarray(new), jnp.asarray(old)
        if new.shape != old.shape:
            raise ShapeError(f"expected apply to keep extras {path!r} at {old.shape}, got {new.shape}")
        if new.dtype == old.dtype:
            return new
        if _kind(new.dtype) > _kind(old.dtype):
            raise ShapeError(
                f"expected apply to keep extras {path!r} in {old.dtype}, got {new.dtype}, which would be rounded; "
                f"start from {new.dtype} in init, or cast in apply"
            )
        return new.astype(old.dtype)

    leaves, treedef = jax.tree.flatten(old)
    return jax.tree.unflatten(treedef, map(keep, leaf_paths(old), jax.tree.leaves(new), leaves))


def _kind(dtype: Any) -> int:
    """The place of a dtype among bool, integer, real and complex: a cast downwards loses more than precision."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), len(kinds))
