"""The linear model beside a run: fitted once the run has completed, kept, and compared again by an evaluation."""

import json

import pytest

from jaxprop.config.build import build
from jaxprop.run import linear
from jaxprop.run.train import train
from jaxprop.tools.eval import evaluate_run

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "table", "train": "sklearn:iris.csv", "target": "species", "test": 0.2, "validation": 0.2},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adam", "lr": 0.01},
    "parallel": {"devices": 1},
    "run": {"steps": 20},
}


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_a_run_on_a_table_has_the_figures_of_a_linear_model_beside_its_own(task, tmp_path):
    figure = {"classify": "accuracy", "regress": "mean_absolute_error"}[task]
    data = SECTIONS["data"] | ({} if task == "classify" else {"target": "petal width"})
    done = train(build(SECTIONS | {"task": {"name": task}, "data": data}), tmp_path / "run", quiet=True)
    reference = done.summary["reference"]
    assert {f"linear_{figure}", f"linear_test_{figure}"} <= set(reference)
    assert set(done.summary["test"]) >= {figure}
    again = evaluate_run(tmp_path / "run")
    assert again["reference"][f"linear_{figure}"] == pytest.approx(reference[f"linear_test_{figure}"])


def test_other_data_have_none(tmp_path):
    config = build(SECTIONS | {"data": {"name": "digits"}, "run": {"steps": 2}})
    done = train(config, tmp_path / "run", quiet=True)
    assert set(done.summary["reference"]) == {"majority_accuracy"}
    assert not (tmp_path / "run" / linear.NAME).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"coefficients": "a", "intercept": []}', json.dumps({"intercept": [1]})]
)
def test_a_damaged_file_costs_only_the_figure(content, tmp_path):
    (tmp_path / linear.NAME).write_text(content)
    assert linear.compared_on(tmp_path, None, "classify") == {}
