"""What is trained: models, their weights and batches, the same for every library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE, WEIGHT_DECAY, EPSILON = 1e-3, 1e-2, 1e-8  # of AdamW, everywhere
BATCHES = 4  # that a run goes through again and again


class Workload(NamedTuple):
    """One model at one size.

    Args:
      name: that tables show.
      kind: `mlp`, `cnn`, `resnet`, `gpt` or `lstm_ctc`.
      batch: examples of a step, B.
      sizes: of the model and of an example.
    """

    name: str
    kind: str
    batch: int
    sizes: dict[str, Any]


def _mlp(batch: int, hidden: tuple[int, ...]) -> Workload:
    name = f"MLP 784-{'-'.join(map(str, hidden))}-10, batch {batch}"
    return Workload(name, "mlp", batch, {"inputs": 784, "hidden": hidden, "classes": 10})


def _cnn(batch: int, channels: tuple[int, ...], convs: int, side: int = 32) -> Workload:
    name = f"CNN {'-'.join(map(str, channels))}, {convs} a block, {side} x {side}, batch {batch}"
    return Workload(name, "cnn", batch, {"side": side, "channels": channels, "convs": convs, "classes": 10})


def _resnet(batch: int, depths: tuple[int, ...], widths: tuple[int, ...], side: int = 32) -> Workload:
    layers = 2 + 2 * sum(depths)
    name = f"ResNet-{layers} of {'-'.join(map(str, widths))}, {side} x {side}, batch {batch}"
    return Workload(name, "resnet", batch, {"side": side, "depths": depths, "widths": widths, "classes": 10})


def _gpt(batch: int, time: int, layers: int, width: int, heads: int, vocabulary: int) -> Workload:
    name = f"GPT {layers} x {width}, {batch} x {time} tokens of {vocabulary}"
    sizes = {"time": time, "layers": layers, "width": width, "heads": heads, "vocabulary": vocabulary}
    return Workload(name, "gpt", batch, sizes)


def _lstm(batch: int, time: int, layers: int, width: int) -> Workload:
    name = f"LSTM {layers} x {width} + CTC, {batch} x {time} frames"
    sizes = {"features": 80, "time": time, "layers": layers, "width": width, "vocabulary": 29, "labels": time // 5}
    return Workload(name, "lstm_ctc", batch, sizes)


CPU = (
    _mlp(256, (1024, 1024)),
    _mlp(512, (2048,) * 4),
    _cnn(64, (32, 64, 128), 1),
    _cnn(32, (64, 128, 256), 2),
    _resnet(64, (3, 3, 3), (16, 32, 64)),
    _resnet(16, (2, 2, 2, 2), (64, 128, 256, 512)),
    _gpt(16, 128, 4, 256, 4, 256),
    _gpt(8, 256, 6, 384, 6, 4096),
    _lstm(32, 100, 1, 256),
    _lstm(16, 200, 2, 512),
)
GPU = (
    _mlp(4096, (4096,) * 4),
    _cnn(1024, (32, 64, 128), 1),
    _resnet(1024, (2, 2, 2, 2), (64, 128, 256, 512)),
    _gpt(16, 1024, 12, 768, 12, 50304),
    _gpt(64, 256, 6, 384, 6, 4096),
    _lstm(128, 400, 2, 1024),
)


def batches(workload: Workload) -> list[dict[str, np.ndarray]]:
    """Random batches: labels too, since a target that can be learned lets activations decay to denormals."""
    rng = np.random.default_rng(0)
    return [MADE[workload.kind](rng, workload.batch, workload.sizes) for _ in range(BATCHES)]


def _of_classes(rng: np.random.Generator, batch: int, shape: tuple[int, ...], classes: int) -> dict[str, np.ndarray]:
    return {
        "inputs": rng.normal(size=(batch, *shape)).astype(np.float32),
        "labels": rng.integers(0, classes, batch).astype(np.int32),
    }


def _of_tokens(rng: np.random.Generator, batch: int, sizes: dict[str, Any]) -> dict[str, np.ndarray]:
    tokens = rng.integers(0, sizes["vocabulary"], (batch, sizes["time"] + 1)).astype(np.int32)
    return {"inputs": tokens[:, :-1].copy(), "labels": tokens[:, 1:].copy()}


def _of_frames(rng: np.random.Generator, batch: int, sizes: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        "inputs": rng.normal(size=(batch, sizes["time"], sizes["features"])).astype(np.float32),
        "labels": rng.integers(1, sizes["vocabulary"], (batch, sizes["labels"])).astype(np.int32),
    }


def _image(sizes: dict[str, Any]) -> tuple[int, int, int]:
    return sizes["side"], sizes["side"], 3


MADE: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "mlp": lambda rng, batch, sizes: _of_classes(rng, batch, (sizes["inputs"],), sizes["classes"]),
    "cnn": lambda rng, batch, sizes: _of_classes(rng, batch, _image(sizes), sizes["classes"]),
    "resnet": lambda rng, batch, sizes: _of_classes(rng, batch, _image(sizes), sizes["classes"]),
    "gpt": _of_tokens,
    "lstm_ctc": _of_frames,
}
