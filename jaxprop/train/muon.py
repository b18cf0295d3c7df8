"""Muon for hidden matrices, AdamW for everything else. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxprop.core import trees
from jaxprop.types import PyTree, Schedule

FUSED = re.compile(r"(.*/)?(qkv|kv)/[^/]*")  # kernels that hold those of queries, keys and values side by side
OF_HEADS = re.compile(r"(.*/)?(query|key|value)/[^/]*")  # with three axes, those of Flax: features, heads, their width
OUTPUTS_FIRST = re.compile(r"(.*/)?weight")  # of Equinox and PyTorch: outputs, inputs, positions in the kernel


@dataclasses.dataclass(frozen=True)
class Matrices:
    """The matrices that an array stands for.

    Args:
      inputs, outputs: axes that are the rows and the columns of the matrix.
      sizes: of the matrices that lie side by side along `outputs[0]`.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]

    def split(self, x: jax.Array) -> list[jax.Array]:
        """Returns the matrices of an array, each with the axes that it has."""
        return jnp.split(x, list(accumulate(self.sizes))[:-1], self.outputs[0])

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Returns the array of which these are the matrices."""
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, self.outputs[0])

    def fans(self, shape: Sequence[int]) -> tuple[float, float]:
        """Returns the numbers of inputs and of outputs of an array."""
        fan_in, fan_out = (math.prod(shape[axis] for axis in axes) for axes in (self.inputs, self.outputs))
        return fan_in, fan_out

    def factor(self, fan_in: float, fan_out: float, consistent_rms: Any) -> Any:
        """Returns what multiplies the update of a matrix by its shape, as in optax."""
        if consistent_rms is None:
            return jnp.sqrt(jnp.maximum(1, fan_out / fan_in))
        return jnp.sqrt(jnp.maximum(fan_in, fan_out)) * consistent_rms

    def scale(self, x: jax.Array, consistent_rms: Any) -> jax.Array:
        """Scales the update of a matrix by its shape."""
        return self.factor(*self.fans(x.shape), consistent_rms) * x


def matrices_of(path: str, shape: Sequence[int]) -> Matrices | None:
    """Returns which matrices an array stands for; None for vectors and for kernels of single channels.

    The axes of a kernel are, from the last on, outputs, inputs, and positions of a convolution; `weight` has its
    outputs first. Inputs and positions together are the rows of the matrix.

    Args:
      path: of the parameter.
      shape: of it.

    Example:
      >>> matrices_of("blocks/0/attn/qkv/kernel", (64, 96))
      Matrices(inputs=(0,), outputs=(1,), sizes=(64, 16, 16))
      >>> matrices_of("conv/kernel", (3, 3, 16, 32)), matrices_of("norm/scale", (64,))
      (Matrices(inputs=(0, 1, 2), outputs=(3,), sizes=(32,)), None)
    """
    axes = tuple(range(len(shape)))
    if len(shape) < 2:
        return None
    if OUTPUTS_FIRST.fullmatch(path):
        inputs, outputs, channels = axes[1:], axes[:1], shape[1]
    elif len(shape) == 3 and OF_HEADS.fullmatch(path):
        inputs, outputs, channels = axes[:1], axes[1:], shape[0]
    else:
        inputs, outputs, channels = axes[:-1], axes[-1:], shape[-2]
    if channels == 1 or math.prod(shape[axis] for axis in outputs) == 1:
        return None
    return Matrices(inputs, outputs, _sizes(path, shape[outputs[0]], math.prod(shape[axis] for axis in inputs)))


def _sizes(path: str, columns: int, rows: int) -> tuple[int, ...]:
    fused = FUSED.fullmatch(path)
    if fused is None:
        return (columns,)
    queries = rows if fused[2] == "qkv" else 0  # queries are as wide as the features that they are made of
    if columns <= queries or (columns - queries) % 2:
        return (columns,)
    each = (columns - queries) // 2
    return (queries, each, each) if queries else (each, each)


def muon(
    learning_rate: float | Schedule,
    *,
    params: PyTree,
    at_edge: Callable[[str], bool],
    ns_coeffs: Any,
    ns_steps: int,
    beta: float,
    eps: float,
    weight_decay: float,
    mu_dtype: Any,
    nesterov: bool,
    adaptive: bool,
    preconditioning: Any,
    adam_b1: float,
    adam_b2: float,
    adam_eps_root: float,
    adam_weight_decay: float,
    adam_learning_rate: float | Schedule | None,
    consistent_rms: float | None,
    weight_decay_mask: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.contrib.muon`, but for what it takes for a matrix.

    Args:
      learning_rate: of both, unless there is an `adam_learning_rate`.
      params: parameters, or their shapes.
      at_edge: whether a parameter is left to AdamW for its place in the model, by its path.
      ns_coeffs, ns_steps, beta, eps, weight_decay, mu_dtype, nesterov, adaptive, preconditioning, adam_b1, adam_b2,
        adam_eps_root, adam_weight_decay, adam_learning_rate, consistent_rms, weight_decay_mask: of
        `optax.contrib.muon`.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. https://kellerjordan.github.io/posts/muon
    """
    kinds = kinds_of(params, at_edge)
    direction = _orthogonal(
        kinds, consistent_rms, ns_coeffs=ns_coeffs, ns_steps=ns_steps, beta=beta, eps=eps, mu_dtype=mu_dtype,
        nesterov=nesterov, adaptive=adaptive, preconditioning=preconditioning,
    )  # fmt: skip
    matrices = optax.chain(
        direction,
        optax.add_decayed_weights(weight_decay, weight_decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    rest = optax.adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate, b1=adam_b1, b2=adam_b2, eps=eps,
        eps_root=adam_eps_root, weight_decay=adam_weight_decay, mu_dtype=mu_dtype, nesterov=nesterov,
    )  # fmt: skip
    labels = jax.tree.map(lambda kind: "muon" if kind.matrices else "adam", kinds)
    return optax.partition({"muon": matrices, "adam": rest}, labels)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a parameter is to Muon; no pytree, so that it stands as a leaf in one."""

    matrices: Matrices | None


def kinds_of(params: PyTree, at_edge: Callable[[str], bool]) -> PyTree:
    """Returns what each parameter is to Muon, in the structure of the parameters.

    Args:
      params: parameters, or their shapes.
      at_edge: whether a parameter is left to AdamW for its place in the model, by its path.

    Example:
      >>> kinds = kinds_of({"head": {"kernel": jnp.ones((2, 3))}}, lambda path: path.startswith("head"))
      >>> kinds["head"]["kernel"].matrices is None
      True
    """
    leaves, structure = jax.tree.flatten(params)
    paths = trees.leaf_paths(params)
    found = [None if at_edge(path) else matrices_of(path, x.shape) for path, x in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(structure, [Kind(one) for one in found])


def _orthogonal(kinds: PyTree, consistent_rms: Any, **options: Any) -> optax.GradientTransformation:
    """optax's direction, of each matrix by itself; the momentum is kept as the parameters are."""

    def each(function: Callable[[Matrices, Any], Any], *trees_: PyTree) -> PyTree:
        def at(kind: Kind, *nodes: Any) -> Any:
            if isinstance(nodes[0], optax.MaskedNode):
                return nodes[0]
            assert kind.matrices is not None, "the partition leaves everything else to AdamW"
            return function(kind.matrices, *nodes)

        return jax.tree.map(at, kinds, *trees_)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        del params
        numbers = each(lambda m, _: [optax.contrib.MuonDimensionNumbers(m.inputs, m.outputs) for _ in m.sizes], updates)
        apart = optax.contrib.scale_by_muon(**options, weight_dimension_numbers=numbers)
        parts, after = apart.update(each(Matrices.split, updates), state._replace(mu=each(Matrices.split, state.mu)))
        scaled = each(lambda m, own: m.join([m.scale(x, consistent_rms) for x in own]), parts)
        return scaled, after._replace(mu=each(Matrices.join, after.mu))

    return optax.GradientTransformation(optax.contrib.scale_by_muon(**options).init, update)
