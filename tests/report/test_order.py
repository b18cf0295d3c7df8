"""Layers in the order of the forward pass."""

import random

import pytest

from jaxprop.report.order import forward_order

BLOCK = ("attn_norm", "attn/qkv", "attn/out", "mlp_norm", "mlp/up", "mlp/down")
TRANSFORMER = ["embed", *(f"blocks/{i}/{part}" for i in range(12) for part in BLOCK), "final_norm", "head"]
TAPS = [*(f"blocks/{i}{part}" for i in range(12) for part in ("/attn", "/mlp", "")), "head"]
CNN = ["blocks/0/0/conv", "blocks/0/0/norm", "blocks/1/0/conv", "blocks/1/0/norm", "layers/0/dense", "head"]
TABLE = {
    "transformer": (TRANSFORMER, TAPS),
    "cnn": (CNN, ["blocks/0/0", "blocks/1/0", "layers/0", "head"]),
    "numbers": ([f"layers/{i}" for i in range(12)], []),
    "a first and a last": (["tok_embed", "embed", "body/a", "ln_f", "lm_head"][1:], []),
    "taps in another order": (["z/dense", "a/dense"], ["z", "a"]),
    "taps inside a layer": (["encoder", "decoder"], ["encoder/0", "encoder/1", "decoder/0"]),
    "a layer without a tap": (["x", "head"], ["layers/0", "head"]),
    "no layer": ([], ["a"]),
}


@pytest.mark.parametrize("name", TABLE)
def test_order(name):
    layers, taps = TABLE[name]
    for seed in range(3):
        assert forward_order(random.Random(seed).sample(layers, len(layers)), taps) == layers
