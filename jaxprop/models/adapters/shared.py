"""What the adapters share: inputs of a batch, and checks of what a model returns. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.types import Batch, PyTree


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
