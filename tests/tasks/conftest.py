"""Tasks bound to small arrays, and a few steps of training on them."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate


class Learned(NamedTuple):
    """What a few steps changed."""

    task: Any
    before: dict
    after: dict


@pytest.fixture
def bound(tmp_path):
    """Returns a function: task, arrays of both splits, changed sections -> (config, sources, task)."""

    def bind(name, train, test=None, **sections):
        paths = {}
        for split, arrays in (("train", train), ("test", test)):
            if arrays is not None:
                paths[split] = str(tmp_path / f"{split}.npz")
                np.savez(paths[split], inputs=arrays[0], labels=arrays[1])
        config = build(
            {
                "task": {"name": name},
                "data": {"name": "arrays", "batch_size": 8, **paths},
                "model": {"name": "mlp", "hidden": [8]},
                "optimizer": {"name": "adam", "lr": 0.02},
                "parallel": {"devices": 1},
                "run": {"steps": 30},
                **sections,
            }
        )
        sources = data.open_sources(config.data, name)
        return config, sources, tasks.make_task(config, sources)

    return bind


@pytest.fixture
def learn():
    """Returns a function: configuration -> the metrics on the test split before and after its steps."""

    def train(config):
        experiment = compose(config)
        state = experiment.init(config.run.seed)
        before = evaluate(experiment, state)
        for _ in range(experiment.total_steps):
            state, _ = experiment.step(state, next(experiment.stream))
        return Learned(experiment.task, before, evaluate(experiment, state))

    return train
