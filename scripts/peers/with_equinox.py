"""Equinox as its documentation trains: stock layers under `jax.vmap`, `eqx.filter_jit` and optax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from peers.side import Trainer, Unsupported, stepping
from peers.with_flax import mean_loss, regated
from peers.with_jaxprop import TX, on_device, versions
from peers.workloads import Workload, batches

KEY = jax.random.key(0)  # of values that are replaced
Weights = dict[str, Any]


def _linear(weights: Weights, path: str) -> eqx.nn.Linear:
    kernel, bias = jnp.asarray(weights[f"{path}/kernel"]), weights.get(f"{path}/bias")
    layer = eqx.nn.Linear(*kernel.shape, use_bias=bias is not None, key=KEY)
    layer = eqx.tree_at(lambda m: m.weight, layer, kernel.T)
    return layer if bias is None else eqx.tree_at(lambda m: m.bias, layer, jnp.asarray(bias))


def _conv(weights: Weights, path: str, stride: int = 1) -> eqx.nn.Conv2d:
    kernel, bias = jnp.asarray(weights[f"{path}/kernel"]), weights.get(f"{path}/bias")
    side, _, n_in, n_out = kernel.shape
    layer = eqx.nn.Conv2d(n_in, n_out, side, stride, side // 2, use_bias=bias is not None, key=KEY)
    layer = eqx.tree_at(lambda m: m.weight, layer, kernel.transpose(3, 2, 0, 1))
    return layer if bias is None else eqx.tree_at(lambda m: m.bias, layer, jnp.asarray(bias)[:, None, None])


class Mlp(eqx.Module):
    layers: list[eqx.nn.Linear]

    def __init__(self, sizes: dict[str, Any], weights: Weights):
        paths = [f"layers/{i}/dense" for i in range(len(sizes["hidden"]))]
        self.layers = [_linear(weights, path) for path in [*paths, "head"]]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class Cnn(eqx.Module):
    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.Linear
    pool: eqx.nn.MaxPool2d
    each: int = eqx.field(static=True)

    def __init__(self, sizes: dict[str, Any], weights: Weights):
        self.each = sizes["convs"]
        places = [(i, j) for i in range(len(sizes["channels"])) for j in range(self.each)]
        self.convs = [_conv(weights, f"blocks/{i}/{j}/conv") for i, j in places]
        self.pool, self.head = eqx.nn.MaxPool2d(2, 2), _linear(weights, "head")

    def __call__(self, x):
        for i, conv in enumerate(self.convs):
            x = self.pool(x) if i and i % self.each == 0 else x
            x = jax.nn.relu(conv(x))
        return self.head(x.transpose(1, 2, 0).reshape(-1))  # as jaxprop flattens


class GptBlock(eqx.Module):
    norms: list[eqx.nn.LayerNorm]
    attn: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, path: str, sizes: dict[str, Any], weights: Weights):
        width = sizes["width"]
        self.norms = [eqx.nn.LayerNorm(width, 1e-6) for _ in range(2)]  # which start at scale 1 and bias 0, too
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        attn = eqx.nn.MultiheadAttention(sizes["heads"], width, **biases, key=KEY)
        kernels = jnp.split(jnp.asarray(weights[f"{path}/attn/qkv/kernel"]), 3, 1)
        offsets = jnp.split(jnp.asarray(weights[f"{path}/attn/qkv/bias"]), 3)
        parts = [_linear({"x/kernel": k, "x/bias": b}, "x") for k, b in zip(kernels, offsets, strict=True)]
        parts.append(_linear(weights, f"{path}/attn/out"))
        self.attn = eqx.tree_at(lambda m: [m.query_proj, m.key_proj, m.value_proj, m.output_proj], attn, parts)
        self.up, self.down = _linear(weights, f"{path}/mlp/up"), _linear(weights, f"{path}/mlp/down")

    def __call__(self, x, mask):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attn(y, y, y, mask)
        y = jax.vmap(self.norms[1])(x)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(y)))


class Gpt(eqx.Module):
    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[GptBlock]
    final_norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], weights: Weights):
        self.embed = eqx.nn.Embedding(weight=jnp.asarray(weights["embed/embedding"]))
        self.positions = jnp.asarray(weights["positions/embedding"])
        self.blocks = [GptBlock(f"blocks/{i}", sizes, weights) for i in range(sizes["layers"])]
        self.final_norm, self.head = eqx.nn.LayerNorm(sizes["width"], 1e-6), _linear(weights, "head")

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens) + self.positions
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.head)(jax.vmap(self.final_norm)(x))


class Lstm(eqx.Module):
    cells: list[eqx.nn.LSTMCell]
    head: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], weights: Weights):
        cells, n_in = [], sizes["features"]
        for i in range(sizes["layers"]):
            cell = eqx.nn.LSTMCell(n_in, sizes["width"], key=KEY)
            values = [regated(weights[f"layers/{i}/{name}"]).T for name in ("input/kernel", "recurrent/kernel")]
            values.append(regated(weights[f"layers/{i}/input/bias"]))
            cells.append(eqx.tree_at(lambda m: [m.weight_ih, m.weight_hh, m.bias], cell, values))
            n_in = sizes["width"]
        self.cells, self.head = cells, _linear(weights, "head")

    def __call__(self, x):
        for cell in self.cells:
            zero = jnp.zeros(cell.hidden_size)

            def turn(carry, x, cell=cell):
                carry = cell(x, carry)
                return carry, carry[0]

            x = jax.lax.scan(turn, (zero, zero), x)[1]
        return jax.vmap(self.head)(x)


MODELS: dict[str, Callable[..., eqx.Module]] = {"mlp": Mlp, "cnn": Cnn, "gpt": Gpt, "lstm_ctc": Lstm}


def start(workload: Workload, weights: Weights, precision: str) -> Trainer:
    """`eqx.filter_jit` of a step on model and optimizer state, donated."""
    if precision != "float32":
        raise Unsupported("equinox is measured in float32 alone")
    if workload.kind not in MODELS:
        raise Unsupported(f"equinox is measured on {', '.join(MODELS)} alone")
    model = MODELS[workload.kind](workload.sizes, weights)
    opt_state = TX.init(eqx.filter(model, eqx.is_inexact_array))
    loss_of = partial(mean_loss, workload.kind)

    @eqx.filter_jit(donate="all-except-first")
    def take(batch: dict[str, jax.Array], model: Any, opt_state: Any) -> tuple[Any, Any, jax.Array]:
        @eqx.filter_value_and_grad
        def gradient(model: Any) -> jax.Array:
            return loss_of(jax.vmap(model)(batch["inputs"]), batch["labels"])

        loss, grads = gradient(model)
        updates, opt_state = TX.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    def one(batch: Any) -> Any:
        nonlocal model, opt_state
        model, opt_state, loss = take(batch, model, opt_state)
        return loss

    def wait(loss: Any) -> float:
        jax.block_until_ready(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
        return float(loss)

    return Trainer(stepping(one, _placed(workload), wait), versions("equinox", "jax"))


def _placed(workload: Workload) -> list[dict[str, jax.Array]]:
    made = batches(workload)
    if workload.kind in ("cnn", "resnet"):  # Equinox has channels first
        made = [one | {"inputs": one["inputs"].transpose(0, 3, 1, 2).copy()} for one in made]
    return on_device(made)
