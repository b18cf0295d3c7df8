"""Checks a gradient two ways besides reverse mode: central differences in float64, and forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxprop.trees import leaf_paths

# Four-point differences: truncation of order STEP^4, rounding near 1e-16 / STEP; a step this short rarely
# crosses a kink of relu, leaky_relu or max-pooling. Compiling dominates, so the compiler does little.
STEP = 1e-5
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def errors(f, params, seed=0):
    """Relative errors of reverse mode, for one random direction in each leaf and two in all leaves.

    Half of each direction is along the gradient, so that no directional derivative is small by chance.

    Returns:
      names of the directions, errors against central differences, errors against forward mode, norms.
    """
    flat, unravel = ravel_pytree(params)
    assert flat.dtype == jnp.float64
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    masks = np.concatenate([np.repeat(np.eye(len(sizes)), sizes, axis=1), np.ones((2, flat.size))])
    noise = masks * np.random.default_rng(seed).normal(size=masks.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)

    def report(flat):
        def g(x):
            return f(unravel(x))

        grad = jax.grad(g)(flat)
        along = masks * grad
        norms = jnp.linalg.norm(along, axis=1)
        directions = noise + along / jnp.maximum(norms, 1e-30)[:, None]
        offsets = jnp.array([-2.0, -1.0, 1.0, 2.0]) * STEP
        values = jax.vmap(jax.vmap(lambda v, h: g(flat + h * v), (None, 0)), (0, None))(directions, offsets)
        central = values @ jnp.array([1.0, -8.0, 8.0, -1.0]) / (12 * STEP)
        forward = jax.vmap(lambda v: jax.jvp(g, (flat,), (v,))[1])(directions)
        reverse = directions @ grad
        return jnp.abs(central / reverse - 1), jnp.abs(forward / reverse - 1), norms

    results = jax.jit(report, compiler_options=FAST_COMPILE)(flat)
    return [*leaf_paths(params), "all", "all"], *map(np.asarray, results)


def check(f, params, seed=0):
    """Asserts that every leaf has a gradient, and that it agrees with both other ways."""
    names, central, forward, norms = errors(f, params, seed)
    without = [name for name, norm in zip(names, norms, strict=True) if not norm > 0]
    assert not without, f"no gradient reaches {without}"
    assert central.max() < 1e-6, dict(zip(names, central, strict=True))
    assert forward.max() < 1e-9, dict(zip(names, forward, strict=True))
