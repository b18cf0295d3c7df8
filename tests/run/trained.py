"""A small run trained on arrays that are gone afterwards, for tests of what can be done with a run."""

import numpy as np

from jaxprop.config.build import build
from jaxprop.run.train import train

CLASSES, FEATURES = 3, 5


def sections(data, **changes):
    """A configuration of an MLP on arrays, with some keys of some sections set."""
    base = {
        "task": {"name": "classify"},
        "data": {"name": "arrays", "batch_size": 16, "train": str(data / "train.npz"), "test": str(data / "test.npz")},
        "model": {"name": "mlp", "hidden": [8], "batch_norm": True},
        "optimizer": {"name": "adam", "lr": 0.05},
        "parallel": {"devices": 1},
        "sinks": {"console": False},
        "run": {"steps": 12, "eval_every": 4, "log_every": 2, "ema_decay": 0.5},
    }
    return {**base, **{name: {**base.get(name, {}), **keys} for name, keys in changes.items()}}


def write_arrays(folder, classes=CLASSES):
    """Writes examples of which the first features tell the class."""
    rng = np.random.default_rng(0)
    for name, length in (("train", 64), ("test", 33)):
        labels = np.arange(length) % classes
        inputs = rng.normal(size=(length, FEATURES)).astype(np.float32)
        inputs[np.arange(length), labels % FEATURES] += 3
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)


def trained_on_tones(folder, **changes):
    """Trains a run that transcribes generated speech, too short to learn it; returns the run's folder."""
    model = {"name": "conv_bilstm", "mels": 8, "channels": [8], "strides": [4], "width": 4, "layers": 1}
    base = sections(folder, run={"steps": 2, "eval_every": 2, "log_every": 1}, sinks={"console": False})
    base |= {"task": {"name": "transcribe"}, "model": model}
    base |= {"data": {"name": "tones", "examples": 8, "test_examples": 5, "batch_size": 4}} | changes
    outcome = train(build(base), folder / "runs" / "tones", quiet=True)
    assert outcome.exit_code == 0
    return folder / "runs" / "tones"


def trained(folder, **changes):
    """Trains a run in `folder/runs/first` and removes its data; returns the run's folder."""
    write_arrays(folder)
    outcome = train(build(sections(folder, **changes)), folder / "runs" / "first", quiet=True)
    assert outcome.exit_code == 0
    for name in ("train", "test"):
        (folder / f"{name}.npz").unlink()
    return folder / "runs" / "first"
