"""Conversion of a train state to numbered leaves and back.

Leaves are stored by number because their names can collide, as those of `{"a/b": x}` and `{"a": {"b": y}}` do. Where no
names collide, leaves are found by name, so that a later version may put them in another order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import CheckpointError
from jaxprop.types import PyTree

_SHOWN = 3  # leaves named in an error about a state that does not fit


def pack(state: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a state into the arrays to be written and a manifest of all its leaves.

    Args:
      state: any pytree of arrays, typed PRNG keys and Python numbers.

    Returns:
      The arrays by leaf number, without those of size zero, which cannot be written; and
      `{"leaves": [[path, "float32[8,16]"], ...], "key_impls": {number: name of the key's generator}}`.

    Example:
      >>> arrays, manifest = pack({"key": jax.random.key(0), "w": jnp.ones((2, 3)), "none": jnp.ones((0, 3))})
      >>> sorted(arrays), manifest["key_impls"]
      (['0', '2'], {'0': 'threefry2x32'})
      >>> manifest["leaves"]
      [['key', 'key<fry>[]'], ['none', 'float32[0,3]'], ['w', 'float32[2,3]']]
    """
    arrays, key_impls = {}, {}
    for i, leaf in enumerate(jax.tree.leaves(state)):
        if _is_key(leaf):
            key_impls[str(i)] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        if np.size(leaf):
            arrays[str(i)] = leaf if isinstance(leaf, jax.Array) else np.array(leaf)
    return arrays, {"leaves": describe(state), "key_impls": key_impls}


def unpack(
    arrays: Mapping[str, Any],
    key_impls: Mapping[str, str],
    abstract_state: PyTree,
    places: Sequence[int] | None = None,
) -> PyTree:
    """Restores the structure of `abstract_state` from arrays: the inverse of `pack`.

    Args:
      arrays: arrays by leaf number, as returned by `pack`.
      key_impls: names of the PRNG keys' generators by leaf number, from the manifest.
      abstract_state: a pytree of the same structure, shapes and dtypes; its values are not used.
      places: number in `arrays` of each leaf of `abstract_state`, as returned by `check_fit`; by default their order.

    Returns:
      A pytree like `abstract_state`, with NumPy arrays and Python numbers where that has them.

    Example:
      >>> state = {"key": jax.random.key(1), "lr": 0.5, "w": jnp.ones(2)}
      >>> arrays, manifest = pack(state)
      >>> unpack(arrays, manifest["key_impls"], state)["lr"]
      0.5
    """
    flat, structure = jax.tree.flatten(abstract_state)
    leaves = []
    for i, abstract in zip(range(len(flat)) if places is None else places, flat, strict=True):
        array = arrays[str(i)] if np.size(abstract) else np.zeros(abstract.shape, abstract.dtype)
        if isinstance(abstract, jax.Array | jax.ShapeDtypeStruct):
            array = array if isinstance(array, jax.Array) else jnp.array(array)
            leaves.append(jax.random.wrap_key_data(array, impl=key_impls[str(i)]) if _is_key(abstract) else array)
        else:
            leaves.append(array if isinstance(abstract, np.ndarray) else array.item())
    return jax.tree.unflatten(structure, leaves)


def describe(state: PyTree) -> list[list[str]]:
    """Returns `[path, "float32[8,16]"]` for every leaf of a pytree.

    Example:
      >>> describe({"w": jnp.ones((2, 3))})
      [['w', 'float32[2,3]']]
    """
    texts = []
    for leaf in jax.tree.leaves(state):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        texts.append(f"{dtype}[{','.join(map(str, np.shape(leaf)))}]")
    return [[path, text] for path, text in zip(leaf_paths(state), texts, strict=True)]


def check_fit(saved: list[list[str]], abstract_state: PyTree, where: str) -> list[int]:
    """Returns where each leaf of a state is among those of a checkpoint, or raises an error if they differ.

    Args:
      saved: the manifest's leaves, as returned by `describe`.
      abstract_state: the state to restore into.
      where: the checkpoint, for the message.

    Returns:
      For each leaf of `abstract_state`, its number in `saved`.

    Raises:
      CheckpointError: naming the first leaves that differ.

    Example:
      >>> check_fit([["w", "float32[2]"], ["b", "float32[3]"]], {"b": jnp.ones(3), "w": jnp.ones(2)}, "")
      [1, 0]
      >>> check_fit([["w", "float32[2]"]], {"w": jnp.ones(3)}, "runs/a/checkpoints/7")
      Traceback (most recent call last):
      jaxprop.errors.CheckpointError: the checkpoint runs/a/checkpoints/7 does not fit this model or optimizer: \
w is float32[2] there and float32[3] here; go back to the config and version it was saved with, or start over with \
--fresh
    """
    wanted = describe(abstract_state)
    if saved == wanted:
        return list(range(len(wanted)))
    before, now = ({leaf[0]: leaf[1] for leaf in leaves} for leaves in (_renamed(saved, wanted), wanted))
    if before == now and len(before) == len(saved) == len(wanted):
        number = {path: i for i, path in enumerate(before)}
        return [number[path] for path, _ in wanted]
    differences = [
        f"{path} is {before.get(path, 'missing')} there and {now.get(path, 'missing')} here"
        for path in dict.fromkeys([*now, *before])
        if before.get(path) != now.get(path)
    ] or ["the leaves come in another order"]
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise CheckpointError(
        f"the checkpoint {where} does not fit this model or optimizer: {'; '.join(differences[:_SHOWN])}{more}; "
        "go back to the config and version it was saved with, or start over with --fresh"
    )


def _renamed(saved: list[list[str]], wanted: list[list[str]]) -> list[list[str]]:
    """The leaves of a checkpoint, with an average of parameters alone under the path that it has today."""
    paths, averages = {path for path, _ in wanted}, "ema/params/"
    if any(path.startswith(averages) for path, _ in saved):
        return saved
    moved = [(re.sub("^ema/", averages, path), path, text) for path, text in saved]
    return [[new if new in paths else path, text] for new, path, text in moved]


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
