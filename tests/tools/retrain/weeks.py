"""A champion on arrays and weeks of new data, small enough that a retraining takes seconds."""

import numpy as np

from jaxprop.config.build import build
from jaxprop.run.train import train

FEATURES = 6
CENTRES = 4.0 * np.random.default_rng(5).normal(size=(5, FEATURES))


def examples(rng, length, *, classes=3, shift=0.0, wrong=0.0):
    """Clusters by class, moved by a drift; some labels are those of the next class. Returns which these are, too."""
    labels = rng.permutation(np.arange(length) % classes)
    inputs = CENTRES[labels] + shift + rng.normal(size=(length, FEATURES))
    bad = rng.permutation(length) < round(wrong * length)
    return inputs.astype(np.float32), np.where(bad, (labels + 1) % classes, labels), bad


def write_week(folder, seed=1, length=240, test=120, **kind):
    """Writes `train.npz` and `test.npz`; returns which training labels are wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    found = {}
    for name, count in (("train", length), ("test", test)):
        inputs, labels, found[name] = examples(rng, count, **kind)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    return found["train"]


def sections(folder, **changes):
    base = {
        "task": {"name": "classify"},
        "data": {
            "name": "arrays", "batch_size": 32, "train": str(folder / "train.npz"), "test": str(folder / "test.npz"),
        },
        "model": {"name": "mlp", "hidden": [16]},
        "optimizer": {"name": "adam", "lr": 0.02},
        "parallel": {"devices": 1},
        "sinks": {"console": False},
        "health": {"layers": False, "taps": False},  # which would compile a second program
        "run": {"steps": 40, "eval_every": 40, "log_every": 40},
    }  # fmt: skip
    return {**base, **{name: {**base.get(name, {}), **keys} for name, keys in changes.items()}}


def first_week(home, **changes):
    """Trains the run that becomes the champion; returns its folder."""
    write_week(home / "week1", seed=0)
    assert train(build(sections(home / "week1", **changes)), home / "runs" / "model", quiet=True).exit_code == 0
    return home / "runs" / "model"
