"""Layers applied one after the other; many that are alike as one scan, whose body is compiled once. Pure."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.core import taps
from jaxprop.core.forms import PLAIN, are_layers_apart, traced_for
from jaxprop.core.placing import splits
from jaxprop.models.adapters.quantizing import names_layers
from jaxprop.models.remat import call, checkpointed

LAYERS = 24  # up to so many are compiled one by one, which takes longer to compile
NARROW = 2**18  # parameters of a layer; a scan copies more of them twice a step, which took longer than it saved

_BEYOND: ContextVar[int | None] = ContextVar("beyond", default=None)


@contextlib.contextmanager
def scanning(layers: int | None) -> Iterator[None]:
    """Has models traced inside take more than so many layers that are alike as a scan.

    Args:
      layers: the number; 0 for no scan at all; None for a scan of more than `LAYERS` that have at most `NARROW`
        parameters each, which also holds outside.

    Example:
      >>> with scanning(4):
      ...     [is_scanned(alike, parameters=10**6) for alike in (4, 5)]
      [False, True]
    """
    token = _BEYOND.set(layers)
    try:
        yield
    finally:
        _BEYOND.reset(token)


def is_scanned(alike: int, parameters: int) -> bool:
    """Returns whether so many layers that are alike are taken as a scan.

    Args:
      alike: number of layers.
      parameters: of one layer.

    Example:
      >>> is_scanned(24, 50_000), is_scanned(25, 50_000), is_scanned(25, 800_000)
      (False, True, False)
    """
    beyond = _BEYOND.get()
    if beyond is None:
        return alike > LAYERS and parameters <= NARROW
    return 0 < beyond < alike


def apply_layers(layers: Sequence[Any], remat: str, x: jax.Array, *args: Any) -> jax.Array:
    """Applies layers in turn, each as one unit of rematerialization; many that are alike as a scan, see `is_scanned`.

    The scan takes the layers' parameters, random streams and taps' collectors stacked, so that each layer keeps its
    own, and gives the value and the gradient of the layers one by one up to rounding. Layers are not stacked where
    their parameters are split over devices or their products are quantized by layer.

    Args:
      layers: modules `(x, *args) -> x`, with a `name` that their taps' names begin with.
      remat: a name in `jaxprop.models.remat.POLICIES`, or `"none"`.
      x: what goes into the first.
      *args: what all of them are given besides: arrays or None.

    Returns:
      What comes out of the last.

    Example:
      >>> from jaxprop.config.schema import model as schema
      >>> from jaxprop.models.blocks import Block
      >>> config = schema.Blocks(name="vit", width=8, heads=2)
      >>> blocks = [Block(f"blocks/{i}", config, causal=False, rope=False, rngs=nnx.Rngs(i)) for i in range(2)]
      >>> apply_layers(blocks, "none", jnp.ones((1, 3, 8))).shape
      (1, 3, 8)
    """
    split = any(splits(axis) for axis in ("fsdp", "tensor", "sequence"))
    if traced_for() == PLAIN or are_layers_apart() or split or names_layers() or not is_scanned(len(layers), 0):
        return _in_turn(layers, remat, x, *args)
    for _, run in itertools.groupby(layers, _likeness):
        alike = list(run)
        parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(alike[0], nnx.Param)))
        x = (_scanned if is_scanned(len(alike), parameters) else _in_turn)(alike, remat, x, *args)
    return x


def _in_turn(layers: Sequence[Any], remat: str, x: jax.Array, *args: Any) -> jax.Array:
    for layer in layers:
        x = call(layer, remat, layer.name, x, *args)
    return x


def _likeness(layer: nnx.Module) -> Any:
    """What layers of one scan have in common: variables of the same shapes and dtypes, in modules of the same classes.

    Classes, since an override of the precision has made one of its own of a module's.
    """
    leaves, structure = jax.tree.flatten(nnx.state(layer))
    return (
        structure,
        [(leaf.shape, leaf.dtype) for leaf in leaves],
        [(at, type(module)) for at, module in nnx.iter_modules(layer)],
    )


def _scanned(layers: Sequence[Any], remat: str, x: jax.Array, *args: Any) -> jax.Array:
    parts: list[Any] = [nnx.split(layer, nnx.Param, ...) for layer in layers]
    graph = parts[0][0]
    params, rest = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part[i] for part in parts)) for i in (1, 2))
    first, names = layers[0].name, taps.collected_under(layers[0].name)
    collectors = {
        name: jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(taps.collectors_of(layer.name + name.removeprefix(first)).popitem()[1] for layer in layers),
        )
        for name in names
    }

    def body(x: jax.Array, layer: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
        params, rest, collectors = layer
        module = nnx.merge(graph, params, rest)
        with taps.filling(collectors):
            x = module(x, *args)
        return x, nnx.state(module, nnx.Not(nnx.Param))

    with jax.named_scope(first.rpartition("/")[0]):
        x, changed = jax.lax.scan(checkpointed(body, remat, in_scan=True), x, (params, rest, collectors))
    for i, layer in enumerate(layers):
        nnx.update(layer, jax.tree.map(lambda leaf, i=i: leaf[i], changed))
    return x
