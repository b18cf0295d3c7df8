"""Keras 3 on JAX: stock layers, `compile` and `fit` on data in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers, ops

from peers.side import Trainer, Unsupported
from peers.with_flax import regated
from peers.with_jaxprop import versions
from peers.workloads import EPSILON, LEARNING_RATE, WEIGHT_DECAY, Workload, batches

Weights = dict[str, Any]


def _set(layer: Any, *values: Any) -> None:
    layer.set_weights(
        [np.asarray(value).reshape(held.shape) for value, held in zip(values, layer.weights, strict=True)]
    )


def _dense(weights: Weights, path: str, x: Any, **options: Any) -> Any:
    bias = weights.get(f"{path}/bias")
    layer = layers.Dense(weights[f"{path}/kernel"].shape[1], use_bias=bias is not None, **options)
    y = layer(x)
    _set(layer, weights[f"{path}/kernel"], *([] if bias is None else [bias]))
    return y


def _conv(weights: Weights, path: str, x: Any, stride: int = 1) -> Any:
    kernel, bias = weights[f"{path}/kernel"], weights.get(f"{path}/bias")
    if stride > 1 and kernel.shape[0] > 1:  # `same` pads otherwise where there is a stride
        x = layers.ZeroPadding2D(kernel.shape[0] // 2)(x)
    padding = "valid" if stride > 1 else "same"
    layer = layers.Conv2D(kernel.shape[3], kernel.shape[0], stride, padding, use_bias=bias is not None)
    y = layer(x)
    _set(layer, kernel, *([] if bias is None else [bias]))
    return y


def _norm(weights: Weights, path: str, x: Any) -> Any:
    layer = layers.LayerNormalization(epsilon=1e-6)
    y = layer(x)
    _set(layer, weights[f"{path}/scale"], weights[f"{path}/bias"])
    return y


def _conv_norm(weights: Weights, path: str, x: Any, stride: int) -> Any:
    layer = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    y = layer(_conv(weights, f"{path}/conv", x, stride))
    _set(layer, weights[f"{path}/norm/scale"], weights[f"{path}/norm/bias"], *layer.get_weights()[2:])
    return y


def mlp(sizes: dict[str, Any], weights: Weights) -> keras.Model:
    x = inputs = keras.Input((sizes["inputs"],))
    for i in range(len(sizes["hidden"])):
        x = _dense(weights, f"layers/{i}/dense", x, activation="relu")
    return keras.Model(inputs, _dense(weights, "head", x))


def cnn(sizes: dict[str, Any], weights: Weights) -> keras.Model:
    x = inputs = keras.Input((sizes["side"], sizes["side"], 3))
    for i in range(len(sizes["channels"])):
        x = layers.MaxPooling2D(2)(x) if i else x
        for j in range(sizes["convs"]):
            x = layers.ReLU()(_conv(weights, f"blocks/{i}/{j}/conv", x))
    return keras.Model(inputs, _dense(weights, "head", layers.Flatten()(x)))


def resnet(sizes: dict[str, Any], weights: Weights) -> keras.Model:
    inputs = keras.Input((sizes["side"], sizes["side"], 3))
    x = layers.ReLU()(_conv_norm(weights, "stem", inputs, 1))
    for i, depth in enumerate(sizes["depths"]):
        for j in range(depth):
            path, stride = f"stages/{i}/{j}", 2 if i and not j else 1
            y = layers.ReLU()(_conv_norm(weights, f"{path}/layers/0", x, stride))
            y = _conv_norm(weights, f"{path}/layers/1", y, 1)
            changes = f"{path}/shortcut/conv/kernel" in weights
            x = layers.ReLU()(y + (_conv_norm(weights, f"{path}/shortcut", x, stride) if changes else x))
    return keras.Model(inputs, _dense(weights, "head", layers.GlobalAveragePooling2D()(x)))


class Positions(layers.Layer):
    def __init__(self, time: int, width: int):
        super().__init__()
        self.table = self.add_weight(shape=(time, width))

    def call(self, x):
        return x + ops.cast(self.table, x.dtype)


def gpt(sizes: dict[str, Any], weights: Weights) -> keras.Model:
    time, width, heads = sizes["time"], sizes["width"], sizes["heads"]
    inputs = keras.Input((time,), dtype="int32")
    tokens, positions = layers.Embedding(sizes["vocabulary"], width), Positions(time, width)
    x = positions(tokens(inputs))
    _set(tokens, weights["embed/embedding"])
    _set(positions, weights["positions/embedding"])
    for i in range(sizes["layers"]):
        path = f"blocks/{i}"
        attn, y = layers.MultiHeadAttention(heads, width // heads), _norm(weights, f"{path}/attn_norm", x)
        x = x + attn(y, y, use_causal_mask=True)
        kernels = np.split(weights[f"{path}/attn/qkv/kernel"], 3, 1)
        biases = np.split(weights[f"{path}/attn/qkv/bias"], 3)
        parts = [part for pair in zip(kernels, biases, strict=True) for part in pair]
        order = {"query": 0, "key": 2, "value": 4}
        for name, layer in (("query", attn._query_dense), ("key", attn._key_dense), ("value", attn._value_dense)):
            _set(layer, *parts[order[name] : order[name] + 2])
        _set(attn._output_dense, weights[f"{path}/attn/out/kernel"], weights[f"{path}/attn/out/bias"])
        y = _dense(weights, f"{path}/mlp/up", _norm(weights, f"{path}/mlp_norm", x))
        x = x + _dense(weights, f"{path}/mlp/down", keras.activations.gelu(y, approximate=True))
    return keras.Model(inputs, _dense(weights, "head", _norm(weights, "final_norm", x)))


def lstm(sizes: dict[str, Any], weights: Weights) -> keras.Model:
    x = inputs = keras.Input((sizes["time"], sizes["features"]))
    for i in range(sizes["layers"]):
        layer = layers.LSTM(sizes["width"], return_sequences=True)
        x, path = layer(x), f"layers/{i}"
        names = ("input/kernel", "recurrent/kernel", "input/bias")
        _set(layer, *(regated(weights[f"{path}/{name}"]) for name in names))
    return keras.Model(inputs, _dense(weights, "head", x))


MODELS: dict[str, Callable[..., keras.Model]] = {
    "mlp": mlp, "cnn": cnn, "resnet": resnet, "gpt": gpt, "lstm_ctc": lstm
}  # fmt: skip


def _ctc(labels: Any, outputs: Any) -> Any:
    shape = ops.shape(labels)
    lengths = ops.full((shape[0],), shape[1], "int32"), ops.full((shape[0],), outputs.shape[1], "int32")
    return ops.ctc_loss(ops.cast(labels, "int32"), outputs, *lengths, mask_index=0) / shape[1]


def start(workload: Workload, weights: Weights, precision: str) -> Trainer:
    """`fit` of as many steps as are asked for; the data are the same batches again and again, in their order."""
    if precision == "float16":
        raise Unsupported("keras is measured in float32 and bfloat16")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    model = MODELS[workload.kind](workload.sizes, weights)
    loss = _ctc if workload.kind == "lstm_ctc" else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adamw = keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY, epsilon=EPSILON)
    model.compile(adamw, loss, jit_compile=True)
    made = batches(workload)
    done = 0

    @cache
    def data(first: int, n: int) -> tuple[np.ndarray, ...]:
        chosen = [made[(first + i) % len(made)] for i in range(n)]
        return tuple(np.concatenate([one[name] for one in chosen]) for name in ("inputs", "labels"))

    def run(n: int) -> float:
        nonlocal done
        inputs, labels = data(done % len(made), n)
        done += n
        found = model.fit(inputs, labels, workload.batch, shuffle=False, verbose=0)
        jax.block_until_ready([variable.value for variable in model.trainable_variables])
        return float(found.history["loss"][-1])

    return Trainer(run, versions("keras", "jax"), "fit")
