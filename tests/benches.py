"""Configurations compiled once and run as often as a test likes, stopped where it likes."""

import json
import signal
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.checkpoint import Checkpoints
from jaxprop.config.build import build
from jaxprop.run import compose
from jaxprop.run.blackbox import Recorder
from jaxprop.run.loop import Loop
from jaxprop.sinks import Sink, fan_out, open_sinks

# 1,437 training digits make 6 steps an epoch, the last of them short of 3 examples.
BASE = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 240, "eval_batch_size": 100},
    "model": {"name": "mlp", "hidden": [16], "dropout": 0.3, "batch_norm": True},
    "optimizer": {
        "name": "adamw",
        "lr": 0.01,
        "schedule": {"name": "warmup_cosine", "warmup_steps": 3},
        "grad_clip": {"norm": 1.0},
    },
    "parallel": {"devices": 1},
    "checkpoint": {"every_steps": 4},
    "run": {"steps": 14, "log_every": 1, "eval_every": 4, "accumulate": 2, "ema_decay": 0.9},
}


def merged(base, over):
    """Sections laid over each other; a section with another name, and a None, replaces."""
    out = dict(base)
    for key, value in over.items():
        same = isinstance(value, dict) and value.get("name", out.get(key, {}).get("name")) == out.get(key, {}).get(
            "name"
        )
        out[key] = merged(out.get(key, {}), value) if same else value
    return {key: value for key, value in out.items() if value is not None}


class Trained(NamedTuple):
    """What a run, whole or stopped and resumed, left."""

    status: str
    loop: Loop
    metrics: list
    layers: str
    alerts: list


class Bench:
    """One configuration compiled once and run as often as a test likes."""

    def __init__(self, over):
        self.config = build(merged(BASE, over))
        self.experiment = compose.compose(self.config)
        self.state = self.experiment.init(self.config.run.seed)

    def loop(self, folder, stop, **changes):
        """A loop at its start, as a new process would make it but for the compiled functions."""
        stream = compose.open_stream(self.config, self.experiment.sources["train"])
        experiment = self.experiment._replace(**{"stream": stream, **changes})
        section = experiment.config.checkpoint
        checkpoints = Checkpoints(folder / "checkpoints", keep=section.keep, best="loss")
        recorder = Recorder(folder, experiment.config)
        return Loop(experiment, copied(self.state), checkpoints, stop, recorder), checkpoints

    def train(self, folder, stop_at=None, sink=None, stop=None, **changes):
        """Runs to the end, or to the step the stop is asked for at; resumes what the folder holds."""
        stop = stop or SimpleNamespace(received=None)

        def progress(step):
            if step == stop_at:
                stop.received = signal.SIGINT

        loop, checkpoints = self.loop(folder, stop, **changes)
        with checkpoints:
            start = loop.resume()
            files = open_sinks(
                self.config.sinks, folder, total_steps=99, start_step=start, alerts=loop.alert_lines, quiet=True
            )
            status = loop.run(fan_out([files, Sink(progress=progress), *([sink] if sink else [])]))
            files.close()
        alerts = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
        return Trained(status, loop, records(folder), (folder / "layers.jsonl").read_text(), alerts)


def copied(state):
    """A copy with buffers of its own, since a step donates them."""
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else jnp.array(x, copy=True), state)


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def bits(tree):
    """The bytes of every leaf."""
    leaves = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(tree)]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def records(folder):
    """The records of `metrics.jsonl` without the one figure that time decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "examples_per_second"} for line in lines]


def with_config(bench, **sections):
    """The bench's experiment under a changed configuration; what is compiled stays."""
    return bench.config.model_copy(
        update={name: getattr(bench.config, name).model_copy(update=values) for name, values in sections.items()}
    )


class Poisoned:
    """The bench's stream with the inputs of some batches multiplied, by their number from 0, resumed or not."""

    def __init__(self, bench, bad, factor=np.nan):
        self._stream = compose.open_stream(bench.config, bench.experiment.sources["train"])
        self._bad, self._factor = bad, np.float32(factor)
        self.batches_per_epoch, self.state, self.restore = (
            self._stream.batches_per_epoch, self._stream.state, self._stream.restore,
        )  # fmt: skip

    def __iter__(self):
        return self

    def __next__(self):
        number = self._stream.epoch * self.batches_per_epoch + self._stream.position
        batch = next(self._stream)
        return {**batch, "inputs": batch["inputs"] * (self._factor if number in self._bad else np.float32(1))}


def as_by_0_1_0(state):
    """A state in the layout that checkpoints and black boxes of 0.1.0 hold: its leaves come in another order."""
    averages = {} if state.ema == () else {"ema": state.ema.params}
    return state._replace(health=state.health._asdict(), **averages)
