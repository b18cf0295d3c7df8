"""Runs in folders of any name: trained, gone on with, evaluated, used and reported, and nothing lies elsewhere."""

import json
import os

import numpy as np
import pytest

from jaxprop.cli import main

CONFIG = """\
task: {name: classify}
data: {name: arrays, train: data.npz, validation: 0.25, batch_size: 8, prefetch: 0}
model: {name: mlp, hidden: [4]}
optimizer: {name: sgd, lr: 0.1}
run: {steps: 2, eval_every: 2, log_every: 1}
parallel: {devices: 1}
"""
NAMES = [
    "a?b", "a*b", "a[1]", "a]b[", "a\\b", "50%", "%s%n", "run #1", "  a b ", "a\nb", "a\tb", "a'b\"c", "$HOME", "~a",
    "{a}", "a;b&c", "é日本", "\u202ea", "a=b", "champions", "x" * 200, "é" * 100, "?*[a]\\%# \n日",
]  # fmt: skip


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
    np.savez("data.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype(np.int32))
    np.save("new.npy", inputs[:3])
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


def done(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_run_in_a_folder_of_any_name(work, capsys, name):
    folder = work / "runs" / name
    done(capsys, "train", "small.yaml", "--run", folder, "--quiet")
    done(capsys, "train", "small.yaml", "run.steps=4", "--run", folder, "--quiet")
    assert json.loads((folder / "summary.json").read_text())["step"] == 4
    measured = json.loads(done(capsys, "eval", folder, "--json"))
    assert measured["run"] == str(folder)
    predicted = done(capsys, "predict", folder, "new.npy", "--json").splitlines()
    assert len(predicted) == 3
    done(capsys, "report", folder, "--quiet")
    assert (folder / "report.html").stat().st_size > 10_000
    listed = json.loads(done(capsys, "runs", "--json"))
    assert [one["name"] for one in listed["runs"]] == [name]
    assert os.listdir(work / "runs") == [name]
    assert sorted(os.listdir(work)) == ["data.npz", "new.npy", "runs", "small.yaml"]
