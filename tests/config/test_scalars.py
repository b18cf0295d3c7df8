import math

import pytest

from jaxprop.config.yaml_loader import plain

TABLE = {
    "": None, "~": None, "null": None, "NULL": None, "nULL": "nULL",
    "true": True, "False": False, "TRUE": True, "no": "no", "on": "on", "yes": "yes", "y": "y", "off": "off",
    "0": 0, "-7": -7, "+7": 7, "010": 10, "0o10": 8, "0x1F": 31, "1_000": "1_000", "0b1": "0b1", "- 1": "- 1",
    "1e-3": 1e-3, "1E5": 1e5, "1.": 1.0, ".5": 0.5, "-.5e1": -5.0, "1e": "1e", "e5": "e5", ".": ".", "1.2.3": "1.2.3",
    "12:30:45": "12:30:45", "2001-01-01": "2001-01-01", ".inf": math.inf, "-.INF": -math.inf,
    "inf": "inf", "nan": "nan",
    "1" * 5000: "1" * 5000, "\u0663": "\u0663", "7\n": "7\n",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), TABLE.items(), ids=lambda x: repr(x)[:20])
def test_plain_scalars_are_those_of_yaml_1_2(text, value):
    assert plain(text) == value
    assert type(plain(text)) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan(text):
    assert math.isnan(plain(text))
