"""Losses with a custom rule each: wrong in a known way, or right; plain, inside jit, scan or remat."""

import jax
import jax.numpy as jnp
import numpy as np


def affine(x, w):
    return jnp.tanh(x @ w)


def affine_rule(x, w, g):
    slope = g * (1 - jnp.tanh(x @ w) ** 2)
    return slope @ w.T, x.T @ slope


def ratio(x, w):
    return x * w / (1 + x**2)


def ratio_rule(x, w, g):
    return g * w * (1 - x**2) / (1 + x**2) ** 2, jnp.sum(g * x / (1 + x**2), 0)


def changed(fault):
    """What a fault makes of a pair of gradients."""
    return {
        "right": lambda a, b: (a, b),
        "sign": lambda a, b: (-a, b),
        "factor": lambda a, b: (a, 2 * b),
        "transposed": lambda a, b: (a, b.T if b.ndim > 1 else b[::-1]),
        "missing term": lambda a, b: (a, 0.9 * b + 0.1 * jnp.sin(b)),
        "stop_gradient": lambda a, b: (jax.lax.stop_gradient(0 * a), b),
    }[fault]


FUNCTIONS = {"affine": (affine, affine_rule), "ratio": (ratio, ratio_rule)}
FAULTS = ("sign", "factor", "transposed", "missing term", "stop_gradient")
# Where the rule lies, by fault and function: each place comes with and without faults.
PLACES = {
    "sign": "plain",
    "factor": "scan",
    "transposed": "jit",
    "missing term": "remat",
    "stop_gradient": "remat in scan",
}


def ruled(name, fault):
    """A function with a rule of its own, which is called after both."""
    function, rule = FUNCTIONS[name]
    planted = jax.custom_vjp(lambda x, w: function(x, w))
    planted.__name__ = f"{name}_{fault}".replace(" ", "_")
    planted.defvjp(lambda x, w: (function(x, w), (x, w)), lambda held, g: changed(fault)(*rule(*held, g)))
    return planted


def loss_of(name, fault, place):
    """`(loss_fn, params, batch)` with the rule in the middle of a small network."""
    rng = np.random.default_rng(0)
    planted = ruled(name, fault)
    width = 4
    w = rng.normal(size=(width, width) if name == "affine" else width)
    params = {"first": rng.normal(size=(3, width)), "rule": w, "head": rng.normal(size=(width, 2))}
    params = {key: jnp.asarray(value, jnp.float32) for key, value in params.items()}
    batch = {"x": rng.normal(size=(5, 3)).astype(np.float32)}

    def middle(x, w):
        if place == "jit":
            return jax.jit(planted)(x, w)
        if place == "remat":
            return jax.checkpoint(planted)(x, w)
        if place in ("scan", "remat in scan"):
            inner = jax.checkpoint(planted) if place == "remat in scan" else planted
            return jax.lax.scan(lambda x, _: (inner(x, w), None), x, None, length=2)[0]
        return planted(x, w)

    def loss_fn(params, batch, key):
        x = middle(batch["x"] @ params["first"], params["rule"])
        return jnp.mean(jnp.square(x @ params["head"]) * jnp.arange(1.0, 3.0))

    return loss_fn, params, batch
