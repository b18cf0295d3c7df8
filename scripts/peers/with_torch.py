"""PyTorch, eager or compiled: channels last for images, fused AdamW, its own attention, automatic mixed precision."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from peers.side import Trainer, Unsupported, stepping
from peers.workloads import EPSILON, LEARNING_RATE, WEIGHT_DECAY, Workload, batches


class Cnn(nn.Module):
    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        convs, n = [], 3
        for width in sizes["channels"]:
            for _ in range(sizes["convs"]):
                convs.append(nn.Conv2d(n, width, 3, padding=1))
                n = width
        self.convs, self.each = nn.ModuleList(convs), sizes["convs"]
        side = sizes["side"] >> (len(sizes["channels"]) - 1)
        self.head = nn.Linear(side * side * n, sizes["classes"])

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            if i and i % self.each == 0:
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
        return self.head(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1))  # as jaxprop flattens


class ConvNorm(nn.Module):
    def __init__(self, n_in: int, n_out: int, side: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, side, stride, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.layers = nn.ModuleList([ConvNorm(n_in, n_out, 3, stride), ConvNorm(n_out, n_out, 3, 1)])
        self.shortcut = ConvNorm(n_in, n_out, 1, stride) if stride != 1 or n_in != n_out else None

    def forward(self, x):
        y = self.layers[1](F.relu(self.layers[0](x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        n = sizes["widths"][0]
        self.stem, stages = ConvNorm(3, n, 3, 1), []
        for i, (depth, width) in enumerate(zip(sizes["depths"], sizes["widths"], strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(Block(n, width, 2 if i and not j else 1))
                n = width
            stages.append(nn.ModuleList(blocks))
        self.stages, self.head = nn.ModuleList(stages), nn.Linear(n, sizes["classes"])

    def forward(self, x):
        x = F.relu(self.stem(x))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((2, 3)))


class GptBlock(nn.Module):
    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        width, self.heads = sizes["width"], sizes["heads"]
        self.attn_norm, self.mlp_norm = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        parts = self.qkv(self.attn_norm(x)).split(d, -1)
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        width = sizes["width"]
        self.embed, self.positions = nn.Embedding(sizes["vocabulary"], width), nn.Embedding(sizes["time"], width)
        self.blocks = nn.ModuleList([GptBlock(sizes) for _ in range(sizes["layers"])])
        self.final_norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, sizes["vocabulary"], bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x))


class Lstm(nn.Module):
    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        self.lstm = nn.LSTM(sizes["features"], sizes["width"], sizes["layers"], batch_first=True)
        self.head = nn.Linear(sizes["width"], sizes["vocabulary"])

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def _mlp(sizes: dict[str, Any]) -> nn.Module:
    widths, layers = [sizes["inputs"], *sizes["hidden"]], []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], sizes["classes"]))


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": _mlp, "cnn": Cnn, "resnet": ResNet, "gpt": Gpt, "lstm_ctc": Lstm}


def _names(kind: str, path: str) -> str:
    """The name in PyTorch of a parameter of jaxprop."""
    path = path.replace("/", ".").replace(".kernel", ".weight").replace(".scale", ".weight")
    path = path.replace(".embedding", ".weight").replace(".attn.", ".").replace(".mlp.", ".")
    if kind == "mlp":
        return path.replace("layers.", "").replace(".dense", "")
    return path


def fill(model: nn.Module, workload: Workload, weights: dict[str, np.ndarray]) -> None:
    """Writes jaxprop's first weights into a model."""
    named, done = dict(model.named_parameters()), set()
    for path, value in weights.items():
        name, x = _names(workload.kind, path), np.asarray(value)
        if workload.kind == "mlp":  # the i-th layer is followed by a ReLU; the head comes after them all
            layer, _, rest = name.partition(".")
            name = f"{2 * len(workload.sizes['hidden']) if layer == 'head' else 2 * int(layer)}.{rest}"
        if workload.kind == "cnn" and name.startswith("blocks"):
            _, i, j, _, rest = name.split(".")
            name = f"convs.{int(i) * workload.sizes['convs'] + int(j)}.{rest}"
        if workload.kind == "lstm_ctc" and name.startswith("layers"):
            _, i, part, rest = name.split(".")
            name = f"lstm.{rest}_{'ih' if part == 'input' else 'hh'}_l{i}"
            a, b, o, g = np.split(x, 4, -1)
            x = np.concatenate([a, b, g, o], -1)
        if path.endswith("kernel"):
            x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        with torch.no_grad():
            named[name].copy_(torch.tensor(np.array(x)))
        done.add(name)
    for name in named.keys() - done:
        assert "bias_hh" in name, name
        # PyTorch has two biases where one is enough; two would be trained twice as fast
        torch.nn.init.zeros_(named[name])
        named[name].requires_grad_(False)


def mean_loss(kind: str, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, or CTC a label."""
    if kind != "lstm_ctc":
        return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1))
    b, t, _ = outputs.shape
    frames = torch.full((b,), t, dtype=torch.int32)
    lengths = torch.full((b,), labels.shape[1], dtype=torch.int32)
    log_probs = F.log_softmax(outputs.float(), -1).transpose(0, 1)
    return F.ctc_loss(log_probs, labels, frames, lengths, reduction="sum") / labels.numel()


def start(workload: Workload, weights: dict[str, np.ndarray], precision: str, *, compiled: bool = False) -> Trainer:
    """An eager step; in mixed precision under autocast."""
    if compiled and workload.kind == "lstm_ctc":
        raise Unsupported("torch.compile leaves an LSTM and CTC as they are; see torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = MODELS[workload.kind](workload.sizes)
    fill(model, workload, weights)
    images = workload.kind in ("cnn", "resnet")
    form = {"memory_format": torch.channels_last} if images else {}
    model = model.to(device, **form)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], LEARNING_RATE, eps=EPSILON, weight_decay=WEIGHT_DECAY,
        fused=True,
    )  # fmt: skip
    mixed = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    called = torch.compile(model) if compiled else model

    def take(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device, mixed) if mixed is not None else contextlib.nullcontext():
            loss = mean_loss(workload.kind, called(batch["inputs"]), batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(loss: torch.Tensor) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    settings = f"{torch.get_num_threads()} threads, fused AdamW" + (", channels last" if images else "")
    return Trainer(stepping(take, _placed(workload, device, form), wait), {"torch": torch.__version__}, settings)


def start_compiled(workload: Workload, weights: dict[str, np.ndarray], precision: str) -> Trainer:
    """The model under `torch.compile`, with its defaults."""
    return start(workload, weights, precision, compiled=True)


def _placed(workload: Workload, device: str, form: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    placed = []
    for one in batches(workload):
        x = torch.from_numpy(one["inputs"])
        x = x.permute(0, 3, 1, 2) if form else x
        placed.append({"inputs": x.to(device, **form), "labels": torch.from_numpy(one["labels"]).to(device).long()})
    return placed
