"""Dtypes by path: which parameters and modules compute in another dtype than the rest of the model. Pure.

A train step casts parameters with `cast_params` and opens `computing` around the model. Inside it the adapters of
`jaxprop.models` cast what goes into a module and comes out of it, by its `Dtypes`, and attention asks for the dtype of
its softmax.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxprop.core.precision import Override, Policy, cast_floating, holds, wide_dtype
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError, did_you_mean
from jaxprop.types import PyTree
from jaxprop.untrusted.patterns import search

SOFTMAX = "softmax"  # the path of attention's softmax, which holds no parameter
HEAD = "head"  # the module that a model ends with: what it returns stays in the dtype that it has computed in
TABLE = "embed/embedding"  # is the head's table too, in a model that has no module of that name
# What of a module's methods computes: its call, the product of a tied embedding, and what reads on token by token.
METHODS = ("__call__", "attend", "extend", "read", "shares")

_policy: contextvars.ContextVar[Policy | None] = contextvars.ContextVar("policy", default=None)
_seen: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("seen", default=None)
# What was rounded on its way out of a module, by identity: the rounded array, which is held so that no other has its
# identity, and the array before.
_rounded: contextvars.ContextVar[dict[int, tuple[Any, Any]] | None] = contextvars.ContextVar("rounded", default=None)
# Part of jit's cache key: else an inner jit, traced once under another policy, would keep the dtypes of that.
_traced_for = jax.make_user_context(None)


@contextlib.contextmanager
def computing(policy: Policy, seen: set[str] | None = None) -> Iterator[None]:
    """Has models traced inside compute as a policy says: products, the softmax, and modules with an override.

    Args:
      policy: the policy.
      seen: takes the paths of the modules that are called, as far as they are known, for `check_overrides`.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> narrow = policy("bfloat16", overrides=[("softmax", "bfloat16")])
      >>> with computing(narrow):
      ...     softmax_dtype(jnp.bfloat16).name
      'bfloat16'
    """
    tokens = _policy.set(policy), _seen.set(seen), _rounded.set({} if policy.overrides else None)
    try:
        with contextlib.ExitStack() as stack:
            if policy.overrides:
                stack.enter_context(_traced_for(policy.overrides))
            if (products := _products(policy)) is not None:
                stack.enter_context(jax.default_matmul_precision(products))
            yield
    finally:
        _policy.reset(tokens[0])
        _seen.reset(tokens[1])
        _rounded.reset(tokens[2])


def _products(policy: Policy) -> str | None:
    """What products of float32 are computed in on a GPU, where JAX by itself takes TF32 if there is such; else None.

    Elsewhere, and where `jax_default_matmul_precision` is set, nothing is changed.
    """
    wide, options = jnp.dtype(policy.compute) == jnp.float32, cast(Any, jax.config)
    if not wide or jax.default_backend() != "gpu" or options.jax_default_matmul_precision is not None:
        return None
    return "tensorfloat32" if policy.tf32 else "highest"


def computed_dtype(usual: DTypeLike) -> jnp.dtype:
    """Returns the dtype that the model computes in, inside `computing`; elsewhere, the one that is given.

    Example:
      >>> computed_dtype(jnp.float16).name
      'float16'
    """
    policy = _policy.get()
    return jnp.dtype(usual if policy is None else policy.compute)


def softmax_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of the logits and the softmax of attention: float32 or wider unless an override says otherwise.

    Args:
      dtype: of queries and keys.

    Example:
      >>> softmax_dtype(jnp.bfloat16).name
      'float32'
    """
    policy = _policy.get()
    note(SOFTMAX)
    found = None if policy is None else _named(policy.overrides, [SOFTMAX])
    return wide_dtype(dtype) if found is None else jnp.dtype(found.dtype)


def head_dtype(usual: DTypeLike) -> jnp.dtype:
    """Returns the dtype of the product that gives the logits of a model without a module `head`.

    So an override of `head` names the output of a model that shares its embedding's table too.

    Args:
      usual: the dtype without an override.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> with computing(policy("bfloat16", overrides=[("norm|head", "float32")])):
      ...     head_dtype(jnp.bfloat16).name
      'float32'
    """
    policy = _policy.get()
    note(HEAD)
    found = None if policy is None else _named(policy.overrides, [HEAD])
    return jnp.dtype(usual if found is None else found.dtype)


def note(path: str) -> None:
    """Notes that there is a module of a path, which an override may name.

    Args:
      path: of the module.
    """
    seen = _seen.get()
    if seen is not None:
        seen.add(path)


class Dtypes:
    """The dtype of every module of a model.

    The first override counts that matches the path of the module, of a module around it, or of a parameter that is its
    own. Without one, a module computes in the policy's compute dtype. In a model without a module `head`, an override
    that matches `head` holds for `embed`, whose table then gives the logits.

    Args:
      policy: the policy.
      paths: of the model's parameters, such as `blocks/0/attn_norm/scale`.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> dtypes = Dtypes(policy("bfloat16", overrides=[("norm", "float32")]), ["blocks/0/attn_norm/scale"])
      >>> dtypes.of("blocks/0/attn_norm").name, dtypes.of("blocks/0").name
      ('float32', 'bfloat16')
    """

    def __init__(self, policy: Policy, paths: Iterable[str]):
        self._policy, self._own = policy, {}
        for path in paths:
            self._own.setdefault(path.rpartition("/")[0], []).append(path)
        if not any(path.partition("/")[0] == HEAD for group in self._own.values() for path in group):
            self._own.update({module: [*own, HEAD] for module, own in self._own.items() if TABLE in own})
        self._found: dict[str, jnp.dtype] = {}

    _own: dict[str, list[str]]

    def of(self, module: str) -> jnp.dtype:
        """Returns the dtype of a module by its path, `""` for the model itself."""
        if module not in self._found:
            override = _named(self._policy.overrides, [*_around(module), *self._own.get(module, ())])
            self._found[module] = jnp.dtype(self._policy.compute if override is None else override.dtype)
        return self._found[module]

    def boundary(self, module: str, around: str) -> tuple[jnp.dtype, jnp.dtype | None] | None:
        """Returns the dtypes of what goes into a module and of what comes out, None for as it is.

        None where the module computes in the dtype of the one around it, so that nothing is cast.

        Args:
          module: path of the module.
          around: path of the module that calls it, which need not be the node above it: a list calls nothing.
        """
        inner, outer = self.of(module), self.of(around)
        if not module:
            return None if inner == jnp.dtype(self._policy.compute) else (inner, None)
        return None if inner == outer else (inner, None if module == HEAD else outer)


def dtypes_of(params: PyTree) -> Dtypes | None:
    """Returns the dtypes of the modules that hold these parameters; None outside `computing`, or without overrides."""
    policy = _policy.get()
    if policy is None or not policy.overrides:
        return None
    return Dtypes(policy, leaf_paths(params))


def called(module: str) -> None:
    """Notes that a module is there, by its path, for `check_overrides`."""
    note(module)


def crossing(
    call: Callable[..., Any], inner: DTypeLike, outer: DTypeLike | None, opaque: tuple[type, ...] = ()
) -> Callable[..., Any]:
    """Returns a method whose floats are cast to one dtype on entry and to another on exit.

    Args:
      call: the method; its first argument is the module.
      inner: of its inputs.
      outer: of its outputs; None leaves them as they are. What is rounded is remembered for `handed_on`.
      opaque: types of arguments and results that are passed on as they are, such as modules.

    Returns:
      A function of the same arguments.

    Example:
      >>> half = crossing(lambda self, x: x * x, jnp.float32, jnp.bfloat16)
      >>> half(None, jnp.ones(2, jnp.bfloat16)).dtype.name
      'bfloat16'
    """

    @functools.wraps(call)
    def cast_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _cast((args, kwargs), inner, opaque)
        outputs = call(self, *args, **kwargs)
        return outputs if outer is None else _cast(outputs, outer, opaque, remember=True)

    return cast_call


def _cast(tree: PyTree, dtype: DTypeLike, opaque: tuple[type, ...], *, remember: bool = False) -> Any:
    def narrow(leaf: Any) -> Any:
        array = isinstance(leaf, jax.Array | np.ndarray)
        if not array or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == dtype:
            return leaf
        return rounded_from(before_rounding(leaf), dtype) if remember else leaf.astype(dtype)

    return jax.tree.map(narrow, tree, is_leaf=lambda node: isinstance(node, opaque))


def before_rounding(x: Any) -> Any:
    """Returns an array as a module has computed it, if `x` is what came out of the module; else `x`."""
    found = (_rounded.get() or {}).get(id(x))
    return x if found is None else found[1]


def rounded_from(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns an array in another dtype, and remembers what it was made of where it has lost digits or range."""
    made, known = x.astype(dtype), _rounded.get()
    if known is not None and not holds(dtype, x.dtype):
        known[id(made)] = made, x
    return made


def handed_on(outputs: PyTree, opaque: tuple[type, ...] = ()) -> Any:
    """Returns a model's outputs, those that come from a module as they are without the rounding at its edge.

    So logits that the last module has computed in float32 reach the loss as they are, whatever the module is called.

    Args:
      outputs: what the model returns.
      opaque: types of nodes that are passed on as they are, such as modules.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> with computing(policy("bfloat16", overrides=[("out", "float32")])):
      ...     y = crossing(lambda self, x: x * x, jnp.float32, jnp.bfloat16)(None, jnp.ones(2, jnp.bfloat16))
      ...     y.dtype.name, handed_on({"logits": y})["logits"].dtype.name, handed_on(y + 1).dtype.name
      ('bfloat16', 'float32', 'bfloat16')
    """
    if not _rounded.get():
        return outputs
    return jax.tree.map(before_rounding, outputs, is_leaf=lambda node: isinstance(node, opaque))


def cast_params(params: PyTree, policy: Policy, *, modules: bool = True) -> PyTree:
    """Casts parameters to the dtypes that they are computed with; integers and booleans stay as they are.

    Args:
      params: any pytree of arrays.
      policy: the policy.
      modules: whether the parameters that are beside one another belong to a module, which computes in one dtype; else
        each parameter is addressed by itself.

    Returns:
      The same structure.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> params = {"norm": {"scale": jnp.ones(2)}, "dense": {"kernel": jnp.ones((2, 2))}}
      >>> cast = cast_params(params, policy("bfloat16", overrides=[("norm", "float32")]))
      >>> cast["norm"]["scale"].dtype.name, cast["dense"]["kernel"].dtype.name
      ('float32', 'bfloat16')
    """
    if not policy.overrides:
        return cast_floating(params, policy.compute)
    leaves, treedef = jax.tree.flatten(params)
    paths = leaf_paths(params)
    if modules:
        of = Dtypes(policy, paths)
        dtypes = [of.of(path.rpartition("/")[0]) for path in paths]
    else:
        found = [_named(policy.overrides, _around(path)) for path in paths]
        dtypes = [policy.compute if override is None else override.dtype for override in found]
    made = [cast_floating(leaf, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return jax.tree.unflatten(treedef, made)


def check_overrides(policy: Policy, params: PyTree, seen: Iterable[str] = ()) -> None:
    """Raises UsageError, in a sentence with the nearest path, where an override matches nothing.

    Args:
      policy: the policy.
      params: of the model.
      seen: paths of modules that were called, and `"softmax"` where there is one.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> check_overrides(policy("bfloat16", overrides=[("hed", "float32")]), {"head": {"kernel": jnp.ones(1)}})
      Traceback (most recent call last):
      jaxprop.errors.UsageError: precision.overrides: 'hed' matches no module and no parameter; did you mean 'head'?
    """
    if not policy.overrides:
        return
    leaves = leaf_paths(params)
    paths = list(dict.fromkeys([*(one for path in leaves for one in _around(path)), *seen]))
    for override in policy.overrides:
        if _named([override], paths) is None:
            words = dict.fromkeys(word for path in paths for word in (path, path.rpartition("/")[2]))
            near = did_you_mean(override.match, words)
            some = f"; there are {', '.join(leaves[:8])}{', ...' if len(leaves) > 8 else ''}"
            raise UsageError(
                f"precision.overrides: {override.match!r} matches no module and no parameter{near or some}"
            )


def _around(path: str) -> list[str]:
    """A path and those around it: `a`, `a/b` and `a/b/c` for `a/b/c`."""
    parts = path.split("/") if path else []
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _named(overrides: Sequence[Override], paths: Sequence[str]) -> Override | None:
    """The first override that matches one of the paths."""
    return next((one for one in overrides if any(search(one.match, path) for path in paths)), None)
