"""Writes the tiny checkpoints in tests/run/pretrained, with the outputs of the models that they are of.

    python scripts/make_pretrained.py

It needs torch, torchvision and transformers (the extra `pretrained`, and torchvision). Weights are drawn, none is
downloaded. Those of batch normalization and biases are drawn as well, since a fresh model has 0 and 1 there, with which
a wrong map may give the right outputs. The tests need neither package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "tests" / "run" / "pretrained"
SEED = 0
TOKENS, LENGTH, CLASSES, SIZE = 11, 7, 3, 33  # an odd size of images shows on which side they are padded


def gpt2() -> tuple[Any, dict[str, np.ndarray]]:
    """Returns a model like GPT-2 and its outputs."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": TOKENS, "n_positions": 2 * LENGTH}
    model = drawn(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)))
    tokens = np.random.default_rng(SEED).integers(0, TOKENS, (2, LENGTH))
    with torch.no_grad():
        outputs = model(torch.from_numpy(tokens)).logits
    return model, {"inputs": tokens.astype(np.int32), "outputs": outputs.numpy()}


def bert() -> tuple[Any, dict[str, np.ndarray]]:
    """Returns a model like BERT and its outputs for pairs of texts, one of them padded."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=TOKENS,
        max_position_embeddings=2 * LENGTH, num_labels=CLASSES,
    )  # fmt: skip
    model = drawn(BertForSequenceClassification(config))
    draw = np.random.default_rng(SEED)
    tokens, types = draw.integers(0, TOKENS, (2, LENGTH)), np.sort(draw.integers(0, 2, (2, LENGTH)), 1)
    mask = np.arange(LENGTH) < np.array([[LENGTH], [LENGTH - 3]])
    given = {"input_ids": tokens, "token_type_ids": types, "attention_mask": mask.astype(np.int64)}
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits
    arrays = {"inputs": tokens.astype(np.int32), "token_types": types.astype(np.int32), "mask": mask.astype(np.float32)}
    return model, {**arrays, "outputs": outputs.numpy()}


def resnet(block: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns a ResNet of torchvision and its outputs."""
    from torchvision.models import resnet as layers

    def narrow(model: Any) -> Any:
        """The model with 4, 4, 8 and 8 channels in place of 64, 128, 256 and 512."""
        import torch.nn as nn

        kind = {"basic": layers.BasicBlock, "bottleneck": layers.Bottleneck}[block]
        model.inplanes = 4
        model.conv1, model.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        for i, width in enumerate((4, 4, 8, 8)):
            setattr(model, f"layer{i + 1}", model._make_layer(kind, width, 2 if i == 1 else 1, 1 if i == 0 else 2))
        model.fc = nn.Linear(8 * kind.expansion, CLASSES)
        return model

    make = layers.resnet18 if block == "basic" else layers.resnet50
    return of_images(drawn(narrow(make(weights=None))), lambda model, x: model(x))


def resnet_transformers() -> tuple[Any, dict[str, np.ndarray]]:
    """Returns a ResNet of transformers and its outputs."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic", num_labels=CLASSES)
    return of_images(drawn(ResNetForImageClassification(config)), lambda model, x: model(x).logits)


def of_images(model: Any, call: Callable[[Any, Any], Any]) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns a model and its outputs for images; PyTorch has their channels first."""
    import torch

    images = np.random.default_rng(SEED).integers(-4, 5, (2, SIZE, SIZE, 3)).astype(np.float32) / 2  # which pack well
    with torch.no_grad():
        outputs = call(model, torch.from_numpy(images.transpose(0, 3, 1, 2)))
    return model, {"inputs": images, "outputs": outputs.numpy()}


def drawn(model: Any) -> Any:
    """Returns a model in evaluation mode, every array of which is drawn."""
    import torch

    make = torch.Generator().manual_seed(SEED)
    for name, array in [*model.named_parameters(), *model.named_buffers()]:
        if array.is_floating_point() and "masked_bias" not in name and not name.endswith("attn.bias"):
            with torch.no_grad():
                array.copy_(torch.rand(array.shape, generator=make) + 0.5 if _is_scale(name, array)
                            else 0.3 * torch.randn(array.shape, generator=make))  # fmt: skip
    return model.eval()


def _is_scale(name: str, array: Any) -> bool:
    return name.endswith("running_var") or (name.endswith("weight") and array.ndim == 1)


MODELS: Mapping[str, Callable[[], tuple[Any, dict[str, np.ndarray]]]] = {
    "gpt2": gpt2,
    "bert": bert,
    "resnet": lambda: resnet("basic"),
    "resnet_bottleneck": lambda: resnet("bottleneck"),
    "resnet_transformers": resnet_transformers,
}


def write(name: str, folder: Path) -> None:
    """Writes a checkpoint as its library does, its config.json, and `example.npz` with inputs and outputs."""
    from safetensors.torch import save_file

    model, example = MODELS[name]()
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    np.savez_compressed(folder / "example.npz", **example)


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    for name in MODELS:
        write(name, folder / name)
        size = sum(path.stat().st_size for path in (folder / name).iterdir())
        print(f"wrote {folder / name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
