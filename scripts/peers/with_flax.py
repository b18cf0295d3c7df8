"""Flax NNX as its documentation trains: stock layers, `nnx.Optimizer` and `nnx.jit`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from peers.side import Trainer, Unsupported, stepping
from peers.with_jaxprop import TX, on_device, versions
from peers.workloads import Workload, batches


class Mlp(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        widths = [sizes["inputs"], *sizes["hidden"], sizes["classes"]]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Cnn(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        convs, n = [], 3
        for width in sizes["channels"]:
            for _ in range(sizes["convs"]):
                convs.append(nnx.Conv(n, width, (3, 3), rngs=rngs))
                n = width
        self.convs, self.each = nnx.List(convs), sizes["convs"]
        side = sizes["side"] >> (len(sizes["channels"]) - 1)
        self.head = nnx.Linear(side * side * n, sizes["classes"], rngs=rngs)

    def __call__(self, x):
        for i, conv in enumerate(self.convs):
            if i and i % self.each == 0:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            x = nnx.relu(conv(x))
        return self.head(x.reshape(x.shape[0], -1))


class ConvNorm(nnx.Module):
    def __init__(self, n_in: int, n_out: int, side: int, stride: int, rngs: nnx.Rngs):
        padding = ((side // 2, side // 2),) * 2
        self.conv = nnx.Conv(n_in, n_out, (side, side), stride, padding=padding, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(n_out, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))


class Block(nnx.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, rngs: nnx.Rngs):
        self.layers = nnx.List([ConvNorm(n_in, n_out, 3, stride, rngs), ConvNorm(n_out, n_out, 3, 1, rngs)])
        self.shortcut = ConvNorm(n_in, n_out, 1, stride, rngs) if stride != 1 or n_in != n_out else None

    def __call__(self, x):
        y = self.layers[1](nnx.relu(self.layers[0](x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        n = sizes["widths"][0]
        self.stem, stages = ConvNorm(3, n, 3, 1, rngs), []
        for i, (depth, width) in enumerate(zip(sizes["depths"], sizes["widths"], strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(Block(n, width, 2 if i and not j else 1, rngs))
                n = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(n, sizes["classes"], rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((1, 2)))


class GptBlock(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        width = sizes["width"]
        self.attn_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(sizes["heads"], width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attn(self.attn_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class Gpt(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        width = sizes["width"]
        self.embed = nnx.Embed(sizes["vocabulary"], width, rngs=rngs)
        self.positions = nnx.Embed(sizes["time"], width, rngs=rngs)
        self.blocks = nnx.List([GptBlock(sizes, rngs) for _ in range(sizes["layers"])])
        self.final_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(width, sizes["vocabulary"], use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.final_norm(x))


class Lstm(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        widths = [sizes["features"], *[sizes["width"]] * sizes["layers"]]
        cells = [nnx.OptimizedLSTMCell(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)]
        self.layers = nnx.List([nnx.RNN(cell) for cell in cells])
        self.head = nnx.Linear(sizes["width"], sizes["vocabulary"], rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _linear(layer: nnx.Linear | nnx.Conv, weights: dict[str, Any], path: str) -> None:
    layer.kernel[...] = jnp.asarray(weights[f"{path}/kernel"])
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(weights[f"{path}/bias"])


def _norm(layer: Any, weights: dict[str, Any], path: str) -> None:
    layer.scale[...], layer.bias[...] = jnp.asarray(weights[f"{path}/scale"]), jnp.asarray(weights[f"{path}/bias"])


def _conv_norm(layer: ConvNorm, weights: dict[str, Any], path: str) -> None:
    _linear(layer.conv, weights, f"{path}/conv")
    _norm(layer.norm, weights, f"{path}/norm")


def fill_mlp(model: Mlp, weights: dict[str, Any]) -> None:
    for i, layer in enumerate(model.layers[:-1]):
        _linear(layer, weights, f"layers/{i}/dense")
    _linear(model.layers[-1], weights, "head")


def fill_cnn(model: Cnn, weights: dict[str, Any]) -> None:
    for i, conv in enumerate(model.convs):
        _linear(conv, weights, f"blocks/{i // model.each}/{i % model.each}/conv")
    _linear(model.head, weights, "head")


def fill_resnet(model: ResNet, weights: dict[str, Any]) -> None:
    _conv_norm(model.stem, weights, "stem")
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            for k, layer in enumerate(block.layers):
                _conv_norm(layer, weights, f"stages/{i}/{j}/layers/{k}")
            if block.shortcut is not None:
                _conv_norm(block.shortcut, weights, f"stages/{i}/{j}/shortcut")
    _linear(model.head, weights, "head")


def fill_gpt(model: Gpt, weights: dict[str, Any]) -> None:
    model.embed.embedding[...] = jnp.asarray(weights["embed/embedding"])
    model.positions.embedding[...] = jnp.asarray(weights["positions/embedding"])
    for i, block in enumerate(model.blocks):
        path, attn = f"blocks/{i}", block.attn
        _norm(block.attn_norm, weights, f"{path}/attn_norm")
        _norm(block.mlp_norm, weights, f"{path}/mlp_norm")
        kernels = jnp.split(jnp.asarray(weights[f"{path}/attn/qkv/kernel"]), 3, 1)
        biases = jnp.split(jnp.asarray(weights[f"{path}/attn/qkv/bias"]), 3)
        for layer, kernel, bias in zip((attn.query, attn.key, attn.value), kernels, biases, strict=True):
            layer.kernel[...] = kernel.reshape(layer.kernel.shape)
            layer.bias[...] = bias.reshape(layer.bias.shape)
        attn.out.kernel[...] = jnp.asarray(weights[f"{path}/attn/out/kernel"]).reshape(attn.out.kernel.shape)
        attn.out.bias[...] = jnp.asarray(weights[f"{path}/attn/out/bias"])
        _linear(block.up, weights, f"{path}/mlp/up")
        _linear(block.down, weights, f"{path}/mlp/down")
    _norm(model.final_norm, weights, "final_norm")
    _linear(model.head, weights, "head")


def regated(x: Any) -> Any:
    """Gates of jaxprop's LSTM, input forget output candidate, in the order of the others: input forget candidate
    output."""
    i, f, o, g = jnp.split(jnp.asarray(x), 4, -1)
    return jnp.concatenate([i, f, g, o], -1)


def fill_lstm(model: Lstm, weights: dict[str, Any]) -> None:
    for i, layer in enumerate(model.layers):
        layer.cell.dense_i.kernel[...] = regated(weights[f"layers/{i}/input/kernel"])
        layer.cell.dense_h.kernel[...] = regated(weights[f"layers/{i}/recurrent/kernel"])
        layer.cell.dense_h.bias[...] = regated(weights[f"layers/{i}/input/bias"])
    _linear(model.head, weights, "head")


MODELS: dict[str, tuple[Any, Callable[..., None]]] = {
    "mlp": (Mlp, fill_mlp), "cnn": (Cnn, fill_cnn), "resnet": (ResNet, fill_resnet), "gpt": (Gpt, fill_gpt),
    "lstm_ctc": (Lstm, fill_lstm),
}  # fmt: skip


def mean_loss(kind: str, outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, or CTC a label, as optax has them."""
    if kind != "lstm_ctc":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()
    nothing = jnp.zeros(outputs.shape[:2]), jnp.zeros(labels.shape)
    return optax.ctc_loss(outputs, nothing[0], labels, nothing[1]).mean() / labels.shape[1]


def start(workload: Workload, weights: dict[str, Any], precision: str) -> Trainer:
    """`nnx.jit` of a step on model and optimizer."""
    if precision != "float32":
        raise Unsupported("flax is measured in float32 alone")
    make, fill = MODELS[workload.kind]
    model = make(workload.sizes, nnx.Rngs(0))
    fill(model, weights)
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    loss_of = partial(mean_loss, workload.kind)

    @nnx.jit
    def take(model: nnx.Module, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda model: loss_of(model(batch["inputs"]), batch["labels"]))(model)
        optimizer.update(model, grads)
        return loss

    def wait(loss: Any) -> float:
        jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
        return float(loss)

    ready = on_device(batches(workload))
    return Trainer(stepping(lambda batch: take(model, optimizer, batch), ready, wait), versions("flax", "jax"))
