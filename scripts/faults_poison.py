"""Poisoned batches: a NaN or an infinity in one example, against the run that leaves its batches out.

    python scripts/faults_poison.py [--trials 50] [--seed 0] [--json PATH]

A trial draws a precision, a way to take steps, an array of the batch (inputs, labels or weight), an example, an element
and a value, and trains 20 steps on data in which that example is poisoned. The reference is the same run with a step
that is never given such a batch: there the state stays as it is, but for the step's number, the count of skips and, in
float16, the halved loss scale. The final states are compared bit by bit. `alerts.jsonl` must name the step, the epoch,
the batch, the example and its place in the file, for every batch that holds it, and nothing else. Each trial is also
stopped at a random step and resumed: the state and `alerts.jsonl` must be the same. A call of several steps is compared
with that of the reference step by step, since a scan is another program: to 1e-5, and its alerts exactly.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.checkpoint import Checkpoints
from jaxprop.config.build import build
from jaxprop.core.precision import LossScale, Scaling, next_loss_scale
from jaxprop.run import compose
from jaxprop.run.blackbox import Recorder
from jaxprop.run.loop import Loop
from jaxprop.run.quarantine import nonfinite
from jaxprop.sinks import Sink, fan_out, open_sinks

ROWS, FEATURES, BATCH, STEPS = 60, 6, 16, 20  # 4 batches an epoch, the last one padded
PRECISIONS = ("float32", "bfloat16", "float16")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"run": {"accumulate": 2}},
    "no prefetch": {"data": {"prefetch": 0}},
    "4 a call": {"run": {"steps_per_call": 4}},
}
PLACES = ("inputs", "labels", "weight")
VALUES = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}


class LeavesOut:
    """A compiled step that is never given a batch that is not finite, and does by hand what is left of it then."""

    def __init__(self, step: Any, scaling: Scaling):
        self._step, self._scaling = step, scaling

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __call__(self, state: Any, batch: Any, detail: str) -> Any:
        if not nonfinite(batch).rows.size:
            return self._step(state, batch, detail)
        _, measurements = self._step(copied(state), batch, detail)  # only for a record to write
        scale = state.loss_scale
        return state._replace(
            step=state.step + 1,
            health=state.health._replace(skips=state.health.skips + 1),
            loss_scale=next_loss_scale(scale, jnp.array(False), self._scaling)
            if isinstance(scale, LossScale)
            else scale,
        ), measurements


def copied(state: Any) -> Any:
    """A copy with buffers of its own, since a step donates them."""
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else jnp.array(x, copy=True), state)


def is_key(x: Any) -> bool:
    """Whether an array holds keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def leaves(state: Any) -> list[np.ndarray]:
    """Every array of a state on the host."""
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(state)]


@functools.cache
def data_folder() -> Path:
    """A folder with the examples, which stays for as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="jaxprop-poison-"))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    labels = (inputs @ rng.normal(size=(FEATURES, 2))).astype(np.float32)
    np.savez(folder / "train.npz", inputs=inputs, labels=labels)
    np.savez(folder / "test.npz", inputs=inputs[:20], labels=labels[:20])
    return folder


@functools.cache
def composed(precision: str, way: str) -> tuple[Any, Any]:
    """An experiment, compiled once for all trials of a kind, and its first state."""
    folder = data_folder()
    sections: dict[str, dict[str, Any]] = {
        "task": {"name": "regress"},
        "data": {
            "name": "arrays", "batch_size": BATCH, "train": str(folder / "train.npz"), "test": str(folder / "test.npz"),
        },
        "model": {"name": "mlp", "hidden": [8], "batch_norm": True, "dropout": 0.2},
        "optimizer": {
            "name": "adamw", "lr": 0.01, "schedule": {"name": "warmup_cosine", "warmup_steps": 3},
            "grad_clip": {"norm": 1.0},
        },
        "precision": {"policy": precision, "loss_scale": 1024.0},
        "parallel": {"devices": 1},
        "checkpoint": {"every_steps": 8},
        "run": {"steps": STEPS, "log_every": 4, "eval_every": 8, "ema_decay": 0.9},
        "health": {"rare_every": 10, "max_skips": STEPS, "blackboxes": 0},
        "sinks": {"console": False},
    }  # fmt: skip
    for name, keys in WAYS[way].items():
        sections[name] = {**sections[name], **keys}
    config = build(sections)
    experiment = compose.compose(config)
    return experiment, experiment.init(config.run.seed)


def poisoned(source: Any, place: str, example: int, element: int, value: float) -> Any:
    """A source one of whose examples is poisoned."""

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = {name: np.array(array) for name, array in source.take(indices).items()}
        batch.setdefault("weight", np.ones(len(indices), np.float32))
        for row in np.flatnonzero(indices == example):
            batch[place][row].reshape(-1)[element % batch[place][row].size :][:1] = value
            if place == "weight":
                batch[place][row] = value
        return batch

    return source._replace(take=take)


def run(experiment: Any, first: Any, folder: Path, source: Any, *, stop_at: int | None = None) -> tuple[Any, list[Any]]:
    """Trains in a folder, or goes on there; returns the state and the lines of `alerts.jsonl` on what was left out."""
    stop = SimpleNamespace(received=None)

    def progress(step: int) -> None:
        if stop_at is not None and step >= stop_at:
            stop.received = signal.SIGINT

    experiment = experiment._replace(stream=compose.open_stream(experiment.config, source))
    folder.mkdir(exist_ok=True)
    with Checkpoints(folder / "checkpoints", best="loss") as checkpoints:
        loop = Loop(experiment, copied(first), checkpoints, stop, Recorder(folder, experiment.config))
        start = loop.resume()
        files = open_sinks(
            experiment.config.sinks, folder, total_steps=STEPS, start_step=start, alerts=loop.alert_lines, quiet=True
        )
        loop.run(fan_out([files, Sink(progress=progress)]))
        files.close()
    lines = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
    return loop.state, [line for line in lines if line["kind"] == "quarantine"]


def expected_lines(experiment: Any, source: Any, example: int) -> list[dict[str, Any]]:
    """What the lines must say, from the batches themselves."""
    stream, found = compose.open_stream(experiment.config, source), []
    for step in range(1, STEPS + 1):
        rows = nonfinite(next(stream)).rows
        if rows.size:
            epoch, batch = divmod(step - 1, stream.batches_per_epoch)
            name = f"{data_folder() / 'train.npz'}[{example}]"
            found.append(
                {
                    "step": step,
                    "rows": rows.tolist(),
                    "epoch": epoch,
                    "batch": batch,
                    "examples": [example],
                    "names": [name],
                }
            )
    return found


def trial(seed: int) -> dict[str, Any]:
    """One trial; returns what was drawn, and what was wrong with it: nothing, in an empty list."""
    draw = random.Random(seed)
    precision, way = draw.choice(PRECISIONS), draw.choice(list(WAYS))
    place, value = draw.choice(PLACES), draw.choice(list(VALUES))
    example, element, stop_at = draw.randrange(ROWS), draw.randrange(FEATURES), draw.randrange(1, STEPS)
    experiment, first = composed(precision, way)
    source = poisoned(experiment.sources["train"], place, example, element, VALUES[value])
    wrong = []
    with tempfile.TemporaryDirectory() as room, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(room)
        state, lines = run(experiment, first, folder / "whole", source)
        run(experiment, first, folder / "stopped", source, stop_at=stop_at)
        again, lines_again = run(experiment, first, folder / "stopped", source)
        by_step, start = (experiment, first) if way != "4 a call" else composed(precision, "plain")
        scaling = Scaling(initial=1024.0, growth_interval=experiment.config.precision.growth_interval)
        left_out = by_step._replace(step=LeavesOut(by_step.step, scaling))
        reference, _ = run(left_out, start, folder / "reference", source)
    if lines_again != lines or [x.tobytes() for x in leaves(again)] != [x.tobytes() for x in leaves(state)]:
        wrong.append(f"stopped at {stop_at} and resumed, it is another run")
    told = [
        {name: line.get(name) for name in ("step", "rows", "epoch", "batch", "examples", "names")} for line in lines
    ]
    expected = expected_lines(experiment, source, example)
    if told != expected:
        wrong.append(f"told {told}, expected {expected}")
    pairs = list(zip(leaves(state), leaves(reference), strict=True))
    if way == "4 a call":
        if not all(np.allclose(a.astype(float), b.astype(float), rtol=1e-5, atol=1e-6) for a, b in pairs):
            wrong.append("the state is not near the reference's")
    elif any(a.tobytes() != b.tobytes() for a, b in pairs):
        wrong.append("the state is not that of the run that leaves the batches out")
    if int(state.health.skips) != len(expected):
        wrong.append(f"counted {int(state.health.skips)} skips, expected {len(expected)}")
    return {
        "seed": seed, "precision": precision, "way": way, "place": place, "value": value, "left_out": len(expected),
        "wrong": wrong,
    }  # fmt: skip


def main() -> int:
    """Runs the trials; returns 1 where any has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    done = []
    for seed in range(args.seed, args.seed + args.trials):
        done.append(trial(seed))
        print(json.dumps(done[-1]), flush=True)
    failed = [one for one in done if one["wrong"]]
    print(
        f"{len(done) - len(failed)} of {len(done)} trials as they must be, {sum(d['left_out'] for d in done)} batches"
    )
    for name in ("precision", "way", "place", "value"):
        counts = {v: sum(one[name] == v for one in done) for v in sorted({one[name] for one in done})}
        print(f"  {name}: " + ", ".join(f"{v} {n}" for v, n in counts.items()))
    if args.json:
        args.json.write_text(json.dumps(done, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
