"""Checks a gradient two ways besides reverse mode: central differences in float64, and forward mode."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxprop.core.forms import PLAIN, forms_for
from jaxprop.core.trees import leaf_paths

# Four-point differences: truncation of order STEP^4, rounding near 1e-16 / STEP; a step this short rarely
# crosses a kink of relu, leaky_relu or max-pooling.
STEP = 1e-5
OFFSETS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * STEP
WEIGHTS = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * STEP)
# Compiling takes most of the time of these tests, running none.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def check(f, params, cases=None):
    """Asserts that the gradient of `f(params, case)` reaches every leaf and is right, for every case.

    One direction for each leaf and two over all of them, half random and half along the gradient, so that
    no directional derivative is small by chance.

    Args:
      f: scalar function of a float64 pytree and of an array; traced once for all cases.
      params: where to differentiate.
      cases: name to the second argument of `f`.
    """
    cases = {"": np.zeros(())} if cases is None else cases
    flat, unravel = ravel_pytree(params)
    assert flat.dtype == jnp.float64
    with forms_for(PLAIN):  # what forward mode can pass; each other form is compared with its plain one
        trace = jax.make_jaxpr(lambda x, case: f(unravel(x), case))(flat, next(iter(cases.values())))

    def g(x, case):
        return jax.core.eval_jaxpr(trace.jaxpr, trace.consts, x, case)[0]

    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def values_and_slopes(directions, case):
        along = jax.vmap(lambda v, h: jax.jvp(lambda x: g(x, case), (flat + h * v,), (v,)), (None, 0))
        return jax.vmap(along, (0, None))(directions, OFFSETS)

    grad = jax.jit(jax.grad(g), compiler_options=FAST_COMPILE)
    names = [*leaf_paths(params), "all", "all"]
    masks, noise = _masks_and_noise(jax.tree.leaves(params))
    for case, argument in cases.items():
        along = masks * grad(flat, argument)
        norms = np.linalg.norm(along, axis=1)
        without = [name for name, norm in zip(names, norms, strict=True) if not norm > 0]
        assert not without, f"{case}: no gradient reaches {without}"
        # Noise against the gradient could cancel it, and rounding would be all that differences see.
        sides = np.where((noise * along).sum(1) < 0, -1.0, 1.0)
        directions = sides[:, None] * noise + along / norms[:, None]
        values, slopes = values_and_slopes(directions, argument)
        reverse = (directions * along).sum(1)
        for other, bound in ((values @ WEIGHTS, 1e-6), (slopes[:, 2], 1e-9)):
            error = np.abs(other / reverse - 1)
            assert error.max() < bound, (case, dict(zip(names, error, strict=True)))


def _masks_and_noise(leaves):
    sizes = [leaf.size for leaf in leaves]
    masks = np.concatenate([np.repeat(np.eye(len(sizes)), sizes, axis=1), np.ones((2, sum(sizes)))])
    noise = masks * np.random.default_rng(0).normal(size=masks.shape)
    return masks, noise / np.linalg.norm(noise, axis=1, keepdims=True)
