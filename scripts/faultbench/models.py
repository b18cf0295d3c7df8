"""Tiny models and learnable data for planted faults: plain functions with taps, each with a pool of examples a seed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprop
from jaxprop.core import trees
from jaxprop.core.taps import tap_attention
from jaxprop.data.readers.digits import load_digits

POOL = 4096
CLASSES = 8
TOKENS, TIME = 16, 8
DIGIT_CLASSES = 10

Params = dict[str, dict[str, jax.Array]]


class Architecture(NamedTuple):
    """One model with its data.

    Args:
      name: what the tables call it.
      init: `key -> params`, two levels deep: layer, then `kernel` and `bias` or `scale`.
      apply: `(params, inputs, drop) -> logits`; `drop` drops activations where a run has dropout.
      pool: `seed -> (inputs [N, ...], labels [N, ...])`.
      batch: examples a step.
      outputs: number of classes or tokens.
      rates: learning rate that suits each optimizer.
      planted: names of the layers that faults of one layer are planted in, in the order of the forward pass.
      tokens: whether inputs are tokens.
    """

    name: str
    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    pool: Callable[[int], tuple[np.ndarray, np.ndarray]]
    batch: int
    outputs: int
    rates: dict[str, float]
    planted: tuple[str, ...]
    tokens: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers, in the order of the records."""
        return _layers(self.name)

    @property
    def relus(self) -> tuple[str, ...]:
        """The planted layers that a relu follows."""
        return tuple(layer for layer in self.planted if layer.startswith(("dense", "conv")) or layer.endswith("/up"))


# -- layers -------------------------------------------------------------------------------------


def dense(key: jax.Array, n_in: int, n_out: int, gain: float = 1.0) -> dict[str, jax.Array]:
    """A dense layer's parameters, with kernels of variance gain^2 / n_in."""
    kernel = jax.random.normal(key, (n_in, n_out), jnp.float32) * jnp.float32(gain * n_in**-0.5)
    return {"bias": jnp.zeros(n_out, jnp.float32), "kernel": kernel}


def norm(width: int) -> dict[str, jax.Array]:
    """A layer normalization's parameters."""
    return {"bias": jnp.zeros(width, jnp.float32), "scale": jnp.ones(width, jnp.float32)}


def linear(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """x W + b over the last axis, computed on a matrix."""
    flat = x.reshape(-1, x.shape[-1]) @ layer["kernel"] + layer["bias"]
    return flat.reshape(*x.shape[:-1], -1)


def normalized(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Layer normalization over the last axis, with statistics in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return y.astype(x.dtype) * layer["scale"] + layer["bias"]


def patches(x: jax.Array) -> jax.Array:
    """3 x 3 neighbourhoods of every pixel, `[B, H, W, 9 C]`: a convolution is then a product, which vmap keeps fast."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)


def pooled(x: jax.Array) -> jax.Array:
    """Maximum over 2 x 2 windows."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


# -- models -------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}


def mlp(name: str, hidden: tuple[int, ...], activation: str, gain: float, rates: dict[str, float]) -> Architecture:
    """Multi-layer perceptron that learns a teacher network."""
    sizes = [16, *hidden, CLASSES]
    names = [f"dense_{i:02d}" for i in range(len(hidden))] + ["head"]

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(names))
        gains = [gain] * len(hidden) + [1.0]
        pairs = itertools.pairwise(sizes)
        return {n: dense(k, *pair, g) for n, k, pair, g in zip(names, keys, pairs, gains, strict=True)}

    def apply(params: Params, x: jax.Array, drop: Callable) -> jax.Array:
        for layer in names[:-1]:
            x = ACTIVATIONS[activation](linear(params[layer], x))
            x = jaxprop.tap(x, layer, activation)
        return linear(params["head"], drop(x))

    return Architecture(name, init, apply, teacher_pool, 32, CLASSES, rates, tuple(names))


def cnn() -> Architecture:
    """Two convolutions with pooling and a dense layer, on handwritten digits."""
    shapes = {"conv_0": (9, 8), "conv_1": (72, 12), "dense_0": (48, 32), "head": (32, DIGIT_CLASSES)}

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(shapes))
        return {n: dense(k, *s, 2**0.5 if n != "head" else 1.0) for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    def apply(params: Params, x: jax.Array, drop: Callable) -> jax.Array:
        for layer in ("conv_0", "conv_1"):
            x = jaxprop.tap(jax.nn.relu(linear(params[layer], patches(x))), layer, "relu")
            x = pooled(x)
        x = linear(params["dense_0"], x.reshape(x.shape[0], -1))
        x = jaxprop.tap(jax.nn.relu(x), "dense_0", "relu")
        return linear(params["head"], drop(x))

    rates = {"sgd": 0.02, "adam": 0.006}
    return Architecture("cnn", init, apply, digit_pool, 16, DIGIT_CLASSES, rates, tuple(shapes))


def rnn(name: str, pool: Callable, n_in: int, classes: int, batch: int, rates: dict[str, float]) -> Architecture:
    """Plain tanh RNN over a sequence, with a dense layer on its last state."""
    width = 24

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, 3)
        recurrent = jax.random.orthogonal(keys[1], width, dtype=jnp.float32)
        return {
            "input": dense(keys[0], n_in, width),
            "recurrent": {"kernel": recurrent},
            "head": dense(keys[2], width, classes),
        }

    def apply(params: Params, x: jax.Array, drop: Callable) -> jax.Array:
        kernel = params["recurrent"]["kernel"]

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jaxprop.tap(jnp.tanh(x + h @ kernel), "recurrent", "tanh"), None

        projected = linear(params["input"], x).swapaxes(0, 1)  # [T, B, H]
        h, _ = jax.lax.scan(step, jnp.zeros_like(projected[0]), projected)
        return linear(params["head"], drop(h))

    return Architecture(name, init, apply, pool, batch, classes, rates, ("input", "recurrent", "head"))


def sparse() -> Architecture:
    """A table of 4,096 embeddings, of which a batch sees 64, and a small network on the mean of four."""
    width = 16

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, 3)
        table = 0.1 * jax.random.normal(keys[0], (POOL, width), jnp.float32)
        return {
            "embed": {"embedding": table},
            "dense_0": dense(keys[1], width, 32, 2**0.5),
            "head": dense(keys[2], 32, CLASSES),
        }

    def apply(params: Params, ids: jax.Array, drop: Callable) -> jax.Array:
        x = params["embed"]["embedding"][ids].mean(1)
        x = jaxprop.tap(jax.nn.relu(linear(params["dense_0"], x)), "dense_0", "relu")
        return linear(params["head"], drop(x))

    rates = {"sgd": 0.05, "adam": 0.003}
    return Architecture("sparse", init, apply, bag_pool, 16, CLASSES, rates, ("embed", "dense_0", "head"), tokens=True)


def transformer(name: str, blocks: int, post_norm: bool, rates: dict[str, float]) -> Architecture:
    """Causal transformer language model, pre-LN or post-LN, on sequences of a Markov chain."""
    width, heads = 16, 2

    def init(key: jax.Array) -> Params:
        params: Params = {"embed": {"embedding": jax.random.normal(key, (TOKENS, width), jnp.float32)}}
        params["positions"] = {"embedding": jax.random.normal(jax.random.fold_in(key, 1), (TIME, width), jnp.float32)}
        for i in range(blocks):
            keys = jax.random.split(jax.random.fold_in(key, i + 2), 4)
            shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 32), "down": (32, width)}
            params |= {f"block_{i}/{n}": dense(k, *s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
            params |= {f"block_{i}/norm_{j}": norm(width) for j in (0, 1)}
        params["head"] = dense(jax.random.fold_in(key, 99), width, TOKENS)
        return params if post_norm else params | {"norm": norm(width)}

    def attention(params: Params, name: str, x: jax.Array) -> jax.Array:
        b, t, d = x.shape
        q, k, v = (y.reshape(b, t, heads, -1) for y in jnp.split(linear(params[f"{name}/qkv"], x), 3, -1))
        logits = jnp.einsum("bthd,bshd->bhts", q, k).astype(jnp.float32) * (d // heads) ** -0.5
        causal = np.tril(np.ones((t, t), bool))
        shares = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf), -1).astype(x.dtype)
        mixed = jnp.einsum("bhts,bshd->bthd", shares, v).reshape(b, t, d)
        return linear(params[f"{name}/out"], tap_attention(mixed, q, k, f"{name}/qkv", causal=True))

    def feed_forward(params: Params, name: str, x: jax.Array) -> jax.Array:
        up = jaxprop.tap(jax.nn.relu(linear(params[f"{name}/up"], x)), f"{name}/up", "relu")
        return linear(params[f"{name}/down"], up)

    def apply(params: Params, tokens: jax.Array, drop: Callable) -> jax.Array:
        table = params["embed"]["embedding"]
        x = jax.nn.one_hot(tokens, TOKENS, dtype=table.dtype) @ table + params["positions"]["embedding"]
        x = jnp.where((tokens < TOKENS)[..., None], x, jnp.asarray(jnp.nan, x.dtype))  # as an embedding's look-up does
        for i in range(blocks):
            name = f"block_{i}"
            for j, layer in enumerate((attention, feed_forward)):
                scale = params[f"{name}/norm_{j}"]
                x = (
                    normalized(scale, x + layer(params, name, x))
                    if post_norm
                    else x + layer(params, name, normalized(scale, x))
                )
            x = jaxprop.tap(x, name)
        return linear(params["head"], drop(x if post_norm else normalized(params["norm"], x)))

    planted = ("embed", *(f"block_{i}/{n}" for i in range(blocks) for n in ("qkv", "up")), "head")
    return Architecture(name, init, apply, markov_pool, 8, TOKENS, rates, planted, tokens=True)


# -- data ---------------------------------------------------------------------------------------


def noisy(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Labels of which 2, 8 or 15 % are drawn at random, by the seed: a loss that has a floor."""
    rng = np.random.default_rng([seed, 1])
    flip = rng.random(labels.shape) < (0.02, 0.08, 0.15)[seed % 3]
    return np.where(flip, rng.integers(0, classes, labels.shape), labels).astype(np.int32)


def teacher_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs `[N, 16]`, labelled by a random network with one hidden layer."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(POOL, 16)).astype(np.float32)
    hidden = np.tanh(x @ rng.normal(size=(16, 24)) / 4)
    logits = hidden @ rng.normal(size=(24, CLASSES))
    return x, noisy(logits.argmax(-1), CLASSES, seed)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits inside scikit-learn, scaled to mean 0 and deviation 1."""
    pixels, labels = load_digits()
    return ((pixels - pixels.mean()) / pixels.std()).astype(np.float32).reshape(-1, 8, 8, 1), labels


def digit_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits drawn with replacement, `[N, 8, 8, 1]`, with noise on every pixel."""
    images, labels = digits()
    rng = np.random.default_rng(seed)
    at = rng.integers(0, len(labels), POOL)
    x = images[at] + 0.3 * rng.normal(size=(POOL, 8, 8, 1))
    return x.astype(np.float32), noisy(labels[at], DIGIT_CLASSES, seed)


def row_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same digits, read row by row, `[N, 8, 8]`."""
    x, labels = digit_pool(seed)
    return x[..., 0], labels


def tone_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences `[N, 48, 2]` of one of 4 frequencies, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, POOL)
    angle = np.outer(0.25 * (1 + labels), np.arange(48)) + 6.3 * rng.random((POOL, 1))
    x = np.stack([np.sin(angle), np.cos(angle)], -1) + 0.3 * rng.normal(size=(POOL, 48, 2))
    return x.astype(np.float32), noisy(labels, 4, seed)


def bag_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bags of four of 4,096 words `[N, 4]`, labelled by the sum of the words' scores."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(POOL, CLASSES))
    words = rng.integers(0, POOL, (POOL, 4)).astype(np.int32)
    return words, noisy(scores[words].sum(1).argmax(-1), CLASSES, seed)


def parity_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs `[N, 16]`, whose label is three products of two signs: no gradient tells of one input alone."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(POOL, 16)).astype(np.float32)
    bits = x[:, [0, 2, 4]] * x[:, [1, 3, 5]] > 0
    return x, (bits @ np.array([1, 2, 4])).astype(np.int32)


def small_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Only 64 examples, which a network learns by heart: the loss falls to next to nothing."""
    rng = np.random.default_rng(seed)
    at = np.resize(np.arange(64), POOL)
    return rng.normal(size=(64, 16)).astype(np.float32)[at], rng.integers(0, CLASSES, 64).astype(np.int32)[at]


def markov_pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[N, 8]` of a sparse random Markov chain, and the tokens that follow."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(TOKENS, 0.2), TOKENS).cumsum(-1)
    tokens = np.empty((POOL, TIME + 1), np.int32)
    tokens[:, 0] = rng.integers(0, TOKENS, POOL)
    for t in range(TIME):
        drawn = rng.random(POOL)[:, None] > chances[tokens[:, t]]
        tokens[:, t + 1] = np.minimum(drawn.sum(-1), TOKENS - 1)
    return tokens[:, :-1], tokens[:, 1:]


def _architectures() -> dict[str, Architecture]:
    made = [
        mlp("mlp", (32, 32, 32), "relu", 2**0.5, {"sgd": 0.03, "adam": 0.01}),
        cnn(),
        rnn("rnn", row_pool, 8, DIGIT_CLASSES, 16, {"sgd": 0.03, "adam": 0.01}),
        transformer("transformer", 2, False, {"sgd": 0.1, "adam": 0.01}),
        mlp("deep_tanh", (24,) * 10, "tanh", 1.0, {"sgd": 0.02, "adam": 2e-3}),
        mlp("deep_sigmoid", (24,) * 10, "sigmoid", 5.0, {"sgd": 0.02, "adam": 2e-3}),
        rnn("long_rnn", tone_pool, 2, 4, 16, {"sgd": 0.005, "adam": 1.5e-3}),
        transformer("post_ln", 5, True, {"sgd": 0.03, "adam": 3e-3}),
        sparse(),
        mlp("parity", (32, 32, 32), "relu", 2**0.5, {"sgd": 0.03, "adam": 0.003})._replace(pool=parity_pool),
        mlp("by_heart", (32, 32, 32), "relu", 2**0.5, {"sgd": 0.03, "adam": 0.01})._replace(pool=small_pool),
    ]
    return {architecture.name: architecture for architecture in made}


ARCHITECTURES: dict[str, Architecture] = _architectures()


@functools.cache
def _layers(name: str) -> tuple[str, ...]:
    return tuple(trees.layer_names(jax.eval_shape(ARCHITECTURES[name].init, jax.random.key(0)))[0])
