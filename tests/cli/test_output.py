"""JSON on stdout: strict, and of every kind of value the commands have."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprop.cli.output import print_json, print_result, run_of
from jaxprop.sinks.jsonl import encode


class Row(NamedTuple):
    name: str
    values: tuple


def test_named_tuples_scalars_and_what_is_not_finite(capsys):
    print_json({"rows": [Row("a", (np.float32(0.5), -math.inf, math.nan)), None], "n": np.int32(3)})
    assert capsys.readouterr().out == '{"rows": [{"name": "a", "values": [0.5, null, null]}, null], "n": 3}\n'


def test_one_line_is_a_record_of_a_run_and_an_indented_value_its_summary(capsys):
    value = {"loss": 0.1 + 0.2, "layer": "é"}
    print_json(value)
    print_json(value, indent=2)
    assert capsys.readouterr().out == f"{encode(value)}\n{json.dumps(value, indent=2)}\n"


def test_the_shape_of_every_result(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    print_result("eval", Path("runs/a"), {"run": "what it says of itself", "step": 3})
    run = str(tmp_path / "runs" / "a")
    assert capsys.readouterr().out == f'{{"command": "eval", "run": "{run}", "step": 3}}\n'


def test_the_run_that_a_configuration_belongs_to(tmp_path):
    assert run_of(tmp_path / "config.yaml") is None  # anybody's file may be called so
    (tmp_path / "metrics.jsonl").write_text("")
    assert run_of(tmp_path / "config.yaml") == tmp_path
    assert run_of(tmp_path / "other.yaml") is None
