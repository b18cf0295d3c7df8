"""The built-in workloads: sections of a configuration with random data, one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxprop.config.build import build
from jaxprop.config.schema.config import Config
from jaxprop.errors import UsageError, one_of

OPTIMIZER = {"name": "adamw", "lr": 1e-4, "weight_decay": 0.1, "decay_mask": "matrices", "grad_clip": {"norm": 1.0}}


def _images(batch: int, *shape: int, **options: int) -> dict[str, Any]:
    data = {"name": "random", "shape": shape, "batch_size": batch, **options}
    return {"task": {"name": "classify"}, "data": data}


def _photos(batch: int) -> dict[str, Any]:
    return _images(batch, 224, 224, 3, classes=1000)


def _texts(batch: int, length: int, vocabulary: int) -> dict[str, Any]:
    data = {"name": "random", "shape": [length], "vocabulary": vocabulary, "batch_size": batch}
    return {"task": {"name": "language"}, "data": data}


def _pairs(batch: int, length: int, vocabulary: int) -> dict[str, Any]:
    return _texts(batch, length, vocabulary) | {"task": {"name": "translate"}}


def _boxes(batch: int) -> dict[str, Any]:
    return _images(batch, 256, 256, 3, classes=80) | {"task": {"name": "detect"}}


def _audio(batch: int, samples: int, vocabulary: int) -> dict[str, Any]:
    data = {"name": "random", "shape": [samples], "vocabulary": vocabulary, "batch_size": batch}
    return {"task": {"name": "transcribe"}, "data": data}


def _resnet(block: str, *depths: int) -> dict[str, Any]:
    return {"name": "resnet", "stem": "large", "block": block, "depths": depths}


def _gpt(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {"name": "transformer", "layers": layers, "width": width, "heads": heads, "positions": "learned"}


WORKLOADS: dict[str, dict[str, Any]] = {
    "mlp": _images(256, 784) | {"model": {"name": "mlp", "hidden": [1024] * 5}},
    "cnn": _images(128, 32, 32, 3) | {"model": {"name": "cnn", "channels": [64, 128, 256], "convs_per_block": 2}},
    "resnet18": _photos(64) | {"model": _resnet("basic", 2, 2, 2, 2)},
    "resnet50": _photos(64) | {"model": _resnet("bottleneck", 3, 4, 6, 3)},
    "vit_s": _photos(64) | {"model": {"name": "vit", "patch": 16, "layers": 12, "width": 384, "heads": 6}},
    "detector": _boxes(16) | {"model": {"name": "detector", "widths": [32, 64, 128, 256], "levels": 3, "pyramid": 128}},
    "lstm": _images(64, 100, 80) | {"model": {"name": "rnn", "cell": "lstm", "width": 512, "layers": 2}},
    "transformer_base": _pairs(32, 64, 32768)
    | {"model": {"name": "seq2seq_transformer", "layers": 6, "width": 512, "heads": 8}},
    "seq2seq_gru": _pairs(32, 64, 8192) | {"model": {"name": "seq2seq_rnn", "width": 512}},
    "conv_bilstm": _audio(16, 64_000, 32) | {"model": {"name": "conv_bilstm", "mels": 80, "width": 320, "layers": 3}},
    "conformer": _audio(16, 64_000, 32) | {"model": {"name": "conformer", "mels": 80, "layers": 16, "kernel": 31}},
    "gpt_10m": _texts(16, 256, 4096) | {"model": _gpt(6, 320, 5)},
    "gpt2_124m": _texts(16, 1024, 50304) | {"model": _gpt(12, 768, 12)},
    "gpt_1b": _texts(8, 1024, 50304) | {"model": _gpt(22, 1920, 15)},
}


def config_of(workload: str, **changes: Mapping[str, Any]) -> Config:
    """Returns the configuration of a workload.

    Args:
      workload: its name.
      changes: section -> keys that replace those of the workload.

    Raises:
      UsageError: there is no such workload.

    Example:
      >>> config_of("mlp", data={"batch_size": 32}).data.batch_size
      32
    """
    if workload not in WORKLOADS:
        raise UsageError(f"{one_of(workload, WORKLOADS, 'workload')}; or give a YAML file")
    sections = WORKLOADS[workload] | {"optimizer": OPTIMIZER, "run": {"steps": 1_000_000}}
    return build({
        name: sections.get(name, {}) | dict(changes.get(name, {})) for name in dict.fromkeys([*sections, *changes])
    })  # fmt: skip
