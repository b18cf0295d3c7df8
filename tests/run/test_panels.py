"""Panels of a finished run: of the test split without padding, on any mesh, and gone with the run they are of."""

import json

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.run import panels
from jaxprop.run.compose import compose
from jaxprop.run.train import train

BASE = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [4], "batch_norm": True},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "run": {"steps": 2},
    "sinks": {"console": False},
}


@pytest.mark.parametrize("devices", [1, 8])
def test_every_example_of_the_test_split_is_counted_once(devices):
    experiment = compose(build({**BASE, "parallel": {"devices": devices}}))
    drawn = panels.draw(experiment, experiment.init(0))
    cells = np.array(drawn["panels"][0]["data"]["cells"])
    assert drawn["examples"] == drawn["of"] == cells.sum() == experiment.validation.length
    labels = experiment.validation.take(np.arange(experiment.validation.length))["labels"]
    counts = dict(zip(drawn["panels"][0]["data"]["names"], cells.sum(1), strict=True))
    assert {int(name): count for name, count in counts.items() if count} == dict(enumerate(np.bincount(labels)))


def test_a_run_that_ends_leaves_them_and_one_that_goes_on_takes_them_away(tmp_path, monkeypatch):
    train(build(BASE), tmp_path, quiet=True)
    found = json.loads((tmp_path / "panels.json").read_text())
    assert (found["step"], [panel["kind"] for panel in found["panels"]]) == (2, ["matrix", "table"])
    monkeypatch.setattr(panels, "draw", lambda experiment, state: None)
    train(build({**BASE, "run": {"steps": 3}}), tmp_path, quiet=True)
    assert not (tmp_path / "panels.json").exists()


def test_without_a_task_that_has_any_nothing_is_drawn():
    experiment = compose(build(BASE))
    experiment = experiment._replace(task=experiment.task._replace(panels=()))
    assert panels.draw(experiment, experiment.init(0)) is None


def test_the_split_is_named():
    held_out = build({**BASE, "data": {**BASE["data"], "validation": 0.1}})
    assert panels.draw(compose(held_out), compose(held_out).init(0))["split"] == "test"
    experiment = compose(held_out)
    without_test = {name: source for name, source in experiment.sources.items() if name != "test"}
    experiment = compose(held_out, without_test)
    assert panels.draw(experiment, experiment.init(0))["split"] == "validation"
