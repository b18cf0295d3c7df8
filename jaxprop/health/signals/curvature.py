"""Curvature of the loss by Hessian-vector products: along the gradient, and the largest eigenvalue. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.types import PyTree


def init_direction(params: PyTree, key: jax.Array) -> PyTree:
    """Returns a random direction of length 1 in the space of the parameters, where a power iteration starts.

    Example:
      >>> round(float(_dot(*[init_direction({"w": jnp.ones(3)}, jax.random.key(0))] * 2)), 5)
      1.0
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return _unit(jax.tree.unflatten(treedef, drawn))


def measure(
    gradient: Callable[[PyTree], PyTree], params: PyTree, grads: PyTree, direction: PyTree
) -> tuple[Any, Any, PyTree]:
    """Curvature along the gradient, and one warm-started step of the power iteration for the largest eigenvalue.

        curvature = g^T H g / ||g||^2,   sharpness = v^T H v,   v <- H v / ||H v||

    Gradient descent with rate eta on a quadratic is stable up to a sharpness of 2 / eta.

    Args:
      gradient: params -> gradient of the loss.
      params: where.
      grads: the gradient there.
      direction: v, of length 1.

    Returns:
      Curvature and sharpness, float32 scalars, and the next direction.

    Example:
      >>> gradient = jax.grad(lambda w: jnp.sum(jnp.array([1.0, 3.0]) * w**2) / 2)
      >>> w, v = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> [x.tolist() for x in measure(gradient, w, gradient(w), v)]
      [1.0, 3.0, [0.0, 1.0]]

    Reference:
      Pearlmutter, Fast Exact Multiplication by the Hessian, 1994; Cohen et al., Gradient Descent on Neural Networks
      Typically Occurs at the Edge of Stability, 2021. https://arxiv.org/abs/2103.00065
    """

    def hessian_times(v: PyTree) -> PyTree:
        return jax.jvp(gradient, (params,), (v,))[1]

    square = _dot(grads, grads)
    curvature = _dot(grads, hessian_times(grads)) / jnp.where(square > 0, square, 1)
    product = hessian_times(direction)
    return curvature, _dot(direction, product), _next(product, direction)


def _next(product: PyTree, direction: PyTree) -> PyTree:
    """The product at length 1; the old direction where that has none, since from 0 or NaN no iteration comes back."""
    length = jnp.sqrt(_dot(product, product))
    return jax.tree.map(
        lambda new, old: jnp.where(jnp.isfinite(length) & (length > 0), new, old), _unit(product), direction
    )


def _dot(a: PyTree, b: PyTree) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(products), jnp.float32(0))


def _unit(tree: PyTree) -> PyTree:
    length = jnp.sqrt(_dot(tree, tree))
    return jax.tree.map(lambda x: (x / jnp.where(length > 0, length, 1)).astype(x.dtype), tree)
