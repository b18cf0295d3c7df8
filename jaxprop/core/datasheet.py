"""What the makers state of their devices: the one table of peaks. Dense products, no sparsity. Pure.

Links and networks count one direction: half of what makers state for both together. The network of a TPU is its share
of the pod's, and that of a GPU the card that a DGX system has for it.

A device is found by the kind that it reports, never by its platform. One that is not listed has no row, and its
figures are then given without a share of the datasheet.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import jax

NVIDIA = "https://resources.nvidia.com/en-us-tensor-core"
TPU = "https://cloud.google.com/tpu/docs/system-architecture-tpu-vm"
PAGES = "https://cloud.google.com/tpu/docs"
AMD = "https://www.amd.com/en/products/accelerators/instinct.html"


class Sheet(NamedTuple):
    """What one device of JAX can do at most.

    Args:
      pattern: regular expression that the device's kind matches.
      tflops: dtype -> TFLOP/s (for int8, 10^12 operations a second) of dense matrix products.
      bandwidth: GB/s of its memory, or None where that is not stated.
      source: where the figures stand.
      counts_as: what one device of JAX is of the hardware.
      memory: GiB that its programs can have, or None where that is not stated.
      link: GB/s that it sends at most to the others of its slice or host, over all links together.
      network: GB/s that it sends at most beyond its slice or host, its share of the network cards.
    """

    pattern: str
    tflops: dict[str, float]
    bandwidth: float | None
    source: str
    counts_as: str = "a whole card"
    memory: float | None = None
    link: float | None = None
    network: float | None = None


def _nvidia(
    pattern: str, bandwidth: float, source: str, memory: float, link: float | None = None,
    network: float | None = None, /, **tflops: float,
) -> Sheet:  # fmt: skip
    names = {
        "f32": "float32",
        "tf32": "tf32",
        "f16": "float16",
        "bf16": "bfloat16",
        "f8": "float8_e4m3fn",
        "i8": "int8",
    }
    found = {names[short]: value for short, value in tflops.items()}
    return Sheet(pattern, found, bandwidth, source, "a whole card", memory, link, network)


def _tpu(
    pattern: str, bandwidth: float, bf16: float, int8: float | None, counts_as: str = "a whole chip",
    source: str = TPU, memory: float | None = None, link: float | None = None, network: float | None = None,
) -> Sheet:  # fmt: skip
    tflops = {"bfloat16": bf16} | ({"int8": int8} if int8 else {})
    return Sheet(pattern, tflops, bandwidth, source, counts_as, memory, link, network)


SHEETS = [
    # MIG slices name themselves; what a slice may do at most is not in the datasheet of the card.
    Sheet(r"MIG", {}, None, "", "a slice of a card (MIG)"),
    _nvidia(
        r"B200", 8000, f"{NVIDIA}/blackwell", 180, 900, 50, f32=75, tf32=1125, f16=2250, bf16=2250, f8=4500, i8=4500
    ),
    _nvidia(r"H200 NVL", 4800, f"{NVIDIA}/h200", 141, 450, 50, f32=60, tf32=418, f16=836, bf16=836, f8=1671, i8=1671),
    _nvidia(r"H200", 4800, f"{NVIDIA}/h200", 141, 450, 50, f32=67, tf32=495, f16=989.5, bf16=989.5, f8=1979, i8=1979),
    _nvidia(r"H100 PCIe", 2039, f"{NVIDIA}/h100", 80, 64, f32=51.2, tf32=378, f16=756.5, bf16=756.5, f8=1513, i8=1513),
    _nvidia(r"H100 NVL", 3938, f"{NVIDIA}/h100", 94, 300, f32=60, tf32=418, f16=835.5, bf16=835.5, f8=1671, i8=1671),
    _nvidia(r"H100", 3352, f"{NVIDIA}/h100", 80, 450, 50, f32=67, tf32=495, f16=989.5, bf16=989.5, f8=1979, i8=1979),
    _nvidia(r"A100.*80GB", 2039, f"{NVIDIA}/a100", 80, 300, 25, f32=19.5, tf32=156, f16=312, bf16=312, i8=624),
    _nvidia(r"A100", 1555, f"{NVIDIA}/a100", 40, 300, 25, f32=19.5, tf32=156, f16=312, bf16=312, i8=624),
    _nvidia(r"L40S", 864, f"{NVIDIA}/l40s", 48, 32, f32=91.6, tf32=183, f16=362, bf16=362, f8=733, i8=733),
    _nvidia(r"\bL4\b", 300, f"{NVIDIA}/l4", 24, 32, f32=30.3, tf32=60, f16=121, bf16=121, f8=242.5, i8=242.5),
    _nvidia(r"\bT4\b", 320, "https://www.nvidia.com/en-us/data-center/tesla-t4", 16, 16, f32=8.1, f16=65, i8=130),
    _nvidia(r"V100", 900, "https://www.nvidia.com/en-us/data-center/v100", 32, 150, f32=15.7, f16=125),
    Sheet(
        r"MI250",
        {"float32": 47.9, "float16": 191.5, "bfloat16": 191.5, "int8": 191.5},
        1638,
        AMD,
        "half a card (one of its two dies)",
    ),
    Sheet(
        r"MI300X",
        {"float32": 163.4, "tf32": 653.7, "float16": 1307.4, "bfloat16": 1307.4, "int8": 2614.9},
        5300,
        AMD,
    ),
    _tpu(r"TPU v2", 350, 22.5, None, "half a chip (one of its two cores)"),
    _tpu(r"TPU v3", 450, 61.5, None, "half a chip (one of its two cores)"),
    _tpu(r"TPU v4", 1228, 275, 275, source=f"{PAGES}/v4", memory=32, link=300),
    _tpu(r"TPU (v5 lite|v5e)", 819, 197, 393, source=f"{PAGES}/v5e", memory=15.75, link=200, network=3.125),
    _tpu(r"TPU (v5|v5p)$", 2765, 459, 918, source=f"{PAGES}/v5p", memory=95, link=600, network=6.25),
    _tpu(r"TPU (v6 lite|v6e)", 1640, 918, 1836, source=f"{PAGES}/v6e", memory=32, link=400, network=12.5),
]


def sheet_of(device: jax.Device) -> Sheet | None:
    """Returns the datasheet of a device, or None where it is not listed.

    Args:
      device: any.

    Example:
      >>> sheet_of(jax.devices("cpu")[0]) is None
      True
    """
    return sheet_of_kind(device.device_kind)


def sheet_of_kind(kind: str) -> Sheet | None:
    """Returns the datasheet of a device by the kind that it reports, or None where it is not listed.

    Args:
      kind: such as `NVIDIA H100 80GB HBM3`.

    Example:
      >>> sheet_of_kind("NVIDIA H100 80GB HBM3").tflops["bfloat16"]
      989.5
    """
    return next((sheet for sheet in SHEETS if re.search(sheet.pattern, kind)), None)
