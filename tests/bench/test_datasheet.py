"""What the makers state: found by the kind that a device reports."""

import re

import pytest

from jaxprop.bench.datasheet import SHEETS, sheet_of_kind


@pytest.mark.parametrize(
    ("kind", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 3352),
        ("NVIDIA H100 PCIe", 2039),
        ("NVIDIA H100 NVL", 3938),
        ("NVIDIA H200", 4800),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA L4", 300),
        ("NVIDIA L40S", 864),
        ("Tesla T4", 320),
        ("TPU v4", 1228),
        ("TPU v5 lite", 819),
        ("TPU v5", 2765),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", float("inf")),
    ],
)
def test_devices_are_found_by_their_kind(kind, bandwidth):
    assert sheet_of_kind(kind).bandwidth == bandwidth


def test_devices_that_are_not_listed_have_no_sheet():
    assert sheet_of_kind("cpu") is None
    assert sheet_of_kind("NVIDIA GeForce RTX 4090") is None


def test_every_sheet_has_a_source_and_positive_figures():
    for sheet in SHEETS:
        assert re.compile(sheet.pattern)
        assert sheet.source.startswith("https://") or "MIG" in sheet.pattern
        assert all(value > 0 for value in [*sheet.tflops.values(), sheet.bandwidth])
