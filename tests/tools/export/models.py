"""Small runs of every kind of model, with inputs to predict, for what is exported of them."""

import numpy as np

from jaxprop.config.build import build
from jaxprop.run.loaded import load
from jaxprop.run.train import train

CASES = {
    "mlp": {"data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [8], "batch_norm": True}},
    "cnn": {"data": {"name": "digits"}, "model": {"name": "cnn", "channels": [4, 8], "hidden": [8]}},
    "bfloat16": {
        "data": {"name": "digits"},
        "precision": {"policy": "bfloat16"},
        "model": {"name": "mlp", "hidden": [8]},
    },
    "rnn": {"data": {"name": "digits"}, "model": {"name": "rnn", "width": 8}},
    "transformer": {
        "task": {"name": "language"},
        "data": {"name": "random", "shape": [12], "examples": 64, "vocabulary": 20},
        "model": {"name": "transformer", "width": 16, "heads": 2, "layers": 1},
    },
}
BASE = {
    "task": {"name": "classify"},
    "optimizer": {"name": "adam", "lr": 0.01},
    "parallel": {"devices": 1},
    "run": {"steps": 2},
}


def run_of(case, folder):
    """Trains the run of a case for two steps; returns it, and inputs of seven examples."""
    train(build({**BASE, **CASES[case]}), folder / "run", quiet=True)
    run = load(folder / "run")
    inputs = run.opened.prepared.example["inputs"]
    rng = np.random.default_rng(0)
    shape, whole = (7, *inputs.shape), inputs.dtype == np.int32
    return run, (rng.integers(0, 20, shape) if whole else rng.random(shape)).astype(inputs.dtype)
