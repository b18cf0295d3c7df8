"""`core/datasheet.py`: the table of peaks."""

from types import SimpleNamespace

import pytest

from jaxprop.core.datasheet import SHEETS, sheet_of


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5, 3352),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5, 2039),
        ("NVIDIA H200", "bfloat16", 989.5, 4800),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156, 1555),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156, 2039),
        ("TPU v5 lite", "bfloat16", 197, 819),
        ("TPU v5", "bfloat16", 459, 2765),
        ("TPU v6 lite", "int8", 1836, 1640),
    ],
)
def test_devices_by_their_kind(kind, dtype, tflops, bandwidth):
    sheet = sheet_of(SimpleNamespace(device_kind=kind))
    assert (sheet.tflops[dtype], sheet.bandwidth) == (tflops, bandwidth)


def test_what_is_not_a_whole_card_is_said():
    for kind in ("TPU v3", "AMD Instinct MI250X", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"):
        assert "whole" not in sheet_of(SimpleNamespace(device_kind=kind)).counts_as


def test_a_device_that_is_not_listed_has_no_sheet():
    assert sheet_of(SimpleNamespace(device_kind="Some Future Chip 9")) is None


def test_every_sheet_names_its_source():
    assert all(sheet.source.startswith("https://") for sheet in SHEETS if sheet.tflops)


def test_of_a_slice_no_peak_is_stated():
    sheet = sheet_of(SimpleNamespace(device_kind="NVIDIA A100-SXM4-40GB MIG 1g.5gb"))
    assert (sheet.tflops, sheet.bandwidth) == ({}, None)
