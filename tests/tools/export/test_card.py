"""The model card: figures of the checkpoint, and what the inputs were prepared by."""

import json
import re

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.export import export_run
from jaxprop.tools.export.card import card
from jaxprop.tools.export.format import Made
from jaxprop.tools.predict import predict_inputs
from tests.run.trained import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home")))


def test_figures_are_those_of_the_checkpoint(run):
    text = card(run, "safetensors", Made("a", b"", "load()", {}, {}, ("It is small.",)))
    steps = [i for i, split in enumerate(run.metrics["split"]) if split == "eval"]
    at = next(i for i in steps if run.metrics["step"][i] == run.step)
    assert f"| | evaluation at step {run.step} | reference |" in text.replace("|  |", "| |")
    assert f"| loss | {run.metrics['loss'][at]:.4g} |" in text
    assert "It is small." in text
    assert "## Inputs" not in text


def test_the_preparation_is_shown_and_long_ones_are_cut(run):
    held = run.opened.prepared
    run.opened = run.opened._replace(
        prepared=held._replace(prepared={"mean": [0.5] * 3000}, info={"class_names": ["a|b"]})
    )
    try:
        text = card(run, "safetensors", Made("a", b"", "load()", {}, {}))
    finally:
        run.opened = run.opened._replace(prepared=held)
    assert '"mean": [' in text
    assert "\n...\n```" in text
    assert "class names, in order: a|b" in text
    assert len(text) < 8000


TABLE = """size,color,weight,price
1,red,,10
2,green,4,12
3,red,5,19
4,blue,7,20
5,green,,21
6,"a|b",9,30
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A regression on a table with missing numbers and categories."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("table")
    (folder / "train.csv").write_text(TABLE)
    config = build(
        {
            "task": {"name": "regress"},
            "data": {"name": "table", "train": str(folder / "train.csv"), "target": "price", "batch_size": 3},
            "model": {"name": "mlp", "hidden": [4]},
            "optimizer": {"name": "adam", "lr": 0.05},
            "parallel": {"devices": 1},
            "sinks": {"console": False},
            "run": {"steps": 4},
        }
    )
    assert train(config, folder / "run", quiet=True).exit_code == 0
    return load(folder / "run")


def by_the_card(text, row):
    """Encodes a row by the table of the card alone."""
    values = []
    for line in text.splitlines():
        if line.startswith("| `inputs[:, "):
            place, column, _, how = (cell.replace("\\|", "|") for cell in re.split(r" (?<!\\)\| ", line.strip("| ")))
            assert place == f"`inputs[:, {len(values)}]`"
            value = row[column]
            if numbers := re.match(r"\(x - (.+)\) / (.+); 0 where it is missing", how):
                values.append(0.0 if value is None else (value - float(numbers[1])) / float(numbers[2]))
            else:
                wanted = re.match(r"1 where it is (.+), else 0", how)[1]
                values.append(float(value == (None if wanted == "missing" else json.loads(wanted))))
    return np.array([values], np.float32)


@pytest.mark.parametrize("values", [(2.5, "a|b", None), (7.0, "red", 3.0), (None, "violet", 5.5)])
def test_a_row_encoded_by_the_card_gets_the_prediction_of_the_run(table, tmp_path, values):
    export_run(table, "safetensors", tmp_path)
    row = dict(zip(("size", "color", "weight"), values, strict=True))
    new = tmp_path / "new.csv"
    new.write_text("size,color,weight\n" + ",".join("" if v is None else str(v) for v in values) + "\n")
    (answers,) = predict_inputs(table, [str(new)])
    found = table.predict({"inputs": by_the_card((tmp_path / "README.md").read_text(), row)})
    assert float(found["value"][0, 0]) == pytest.approx(answers[0].values["price"], rel=1e-6)


def test_the_row_that_the_card_shows_gets_the_prediction_that_it_shows(table, tmp_path):
    export_run(table, "safetensors", tmp_path)
    row, arrays, predicted = map(json.loads, re.findall(r"```json\n(.*)\n```", (tmp_path / "README.md").read_text()))
    (tmp_path / "new.jsonl").write_text(json.dumps(row))
    (answers,) = predict_inputs(table, [str(tmp_path / "new.jsonl")])
    assert predicted["value"] == pytest.approx([answers[0].values["price"]], rel=1e-5)
    np.testing.assert_allclose(arrays["inputs"], by_the_card((tmp_path / "README.md").read_text(), row), rtol=1e-5)
    listed = json.loads((tmp_path / "prepared.json").read_text())["prepared"]["features"]
    assert [entry["column"] for entry in listed] == ["size", "weight", "weight", *["color"] * 4]
