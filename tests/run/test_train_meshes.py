"""A run on a mesh of 8 devices raises the alerts of one device, and resumes from one mesh on any other."""

import json

import numpy as np
import pytest

from jaxprop.config.load import load
from jaxprop.run.train import train

# The rate is far too high: units die, updates are too large, and in the end no gradient is left.
DOOMED = [
    "model.hidden=[64,64]", "optimizer.schedule={name: constant}", "optimizer.lr=0.3", "run.steps=40",
    "run.eval_every=40", "health.rare_every=10",
]  # fmt: skip
MESHES = {"data": "{}", "fsdp": "{fsdp: 8}", "fsdp and tensor": "{fsdp: 2, tensor: 2}"}


def alerts(folder, *overrides):
    train(load("digits_mlp", [*DOOMED, *overrides]).config, folder, quiet=True)
    return [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def of_one_device(tmp_path_factory):
    return alerts(tmp_path_factory.mktemp("one") / "run", "parallel.devices=1")


@pytest.mark.parametrize("mesh", MESHES)
def test_alerts_of_a_mesh_are_those_of_one_device(tmp_path, mesh, of_one_device):
    found = alerts(tmp_path / "run", f"parallel.mesh={MESHES[mesh]}")
    assert [(a["step"], a["kind"], a["layer"]) for a in found] == [
        (a["step"], a["kind"], a["layer"]) for a in of_one_device
    ]
    assert {a["kind"] for a in found} == {"dead", "update_ratio", "zero_gradient"}
    np.testing.assert_allclose([a["value"] for a in found], [a["value"] for a in of_one_device], rtol=1e-5)


def test_a_state_on_the_host_is_taken_up_on_the_devices(tmp_path):
    """The optimizer's state may go to the host and back between sessions, and the steps keep their bits."""
    base = ["model.hidden=[64,64]", "parallel.devices=2", "checkpoint.every_steps=4", "run.log_every=1"]
    base += ["optimizer.schedule={name: constant}"]

    def losses(folder, *overrides):
        train(load("digits_mlp", [*base, *overrides]).config, folder, quiet=True)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["split"] == "train"]

    losses(tmp_path / "moved", "run.steps=4", "parallel.offload_optimizer=true")
    losses(tmp_path / "moved", "run.steps=8")
    moved = losses(tmp_path / "moved", "run.steps=12", "parallel.offload_optimizer=true")
    assert moved == losses(tmp_path / "plain", "run.steps=12")
    assert len(moved) == 12
