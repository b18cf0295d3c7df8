"""Speed of the training loop around the step: checkpoints, the host's part of a call, steps a call, the data reader.

    python scripts/bench_loop.py [--part NAME ...] [--rounds N] [--seconds S] [--torch-python PYTHON]

Four parts, each a Markdown table:

    checkpoints  the median and the longest time of a step of `jaxprop.fit`, with checkpoints off and on
    host         a call of the step with 218 leaves: the library's, the same program on a flat tuple of arrays, and a
                 flat step of SGD by hand
    calls        steps a second of a tiny model by `run.steps_per_call`
    reader       examples a second of images in memory, as bytes on both sides: the library's stream against a
                 DataLoader of torch, which runs in a process of its own with the interpreter of `--torch-python`

What is compared is taken in turns, there and back, in one process but for torch. Figures are the median over the rounds
with the least and the most, since the machine's load changes from one round to the next. A step's time is that between
its record and the one before it, as both reach the host, so what the loop does between steps counts; the first steps,
which compile, do not.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from jaxprop import data
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.run.compose import compose
from jaxprop.run.train import train
from jaxprop.sinks import Sink

LEAVES, WARM = 218, 40  # arrays of the host's part; steps that are not counted, in which programs are compiled
IMAGES, SIDE, BATCH = 50_000, 32, 256


class Model(NamedTuple):
    """A multi-layer perceptron of equal widths with Adam, and its batch."""

    width: int
    layers: int
    batch: int


MODELS = {
    "MLP 6 x 512, batch 512": Model(512, 6, 512),
    "MLP 6 x 1024, batch 256": Model(1024, 6, 256),
    "MLP 6 x 1024, batch 1024": Model(1024, 6, 1024),
    "MLP 6 x 2048, batch 512": Model(2048, 6, 512),
}


def spread(values: list[float], form: str = ".3g") -> str:
    """The median with the least and the most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def there_and_back(names: list[str], rounds: int) -> Iterator[str]:
    """Names in turns: forwards, and in the next round backwards."""
    for i in range(rounds):
        yield from names if i % 2 == 0 else reversed(names)


# -- checkpoints ----------------------------------------------------------------------------------


def _mlp_loss(params: Any, batch: Any, _key: Any) -> jax.Array:
    x = batch["inputs"]
    for name in sorted(params):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean((x - batch["inputs"]) ** 2)


def step_times(model: Model, folder: Path, steps: int, every: int | None) -> list[float]:
    """Seconds of each step of a run, from the record of one to that of the next."""
    rng = np.random.default_rng(0)
    scale = model.width**-0.5
    params = {
        f"layer_{i}": {
            "kernel": jnp.asarray(rng.normal(0, scale, (model.width, model.width)), jnp.float32),
            "bias": jnp.zeros(model.width),
        }
        for i in range(model.layers)
    }
    batches = [{"inputs": rng.normal(size=(model.batch, model.width)).astype(np.float32)} for _ in range(4)]
    marks: list[float] = []
    jaxprop.fit(
        _mlp_loss, optax.adam(1e-4), batches, run=folder, steps=steps, params=params, quiet=True, fresh=True,
        health={"every": 1, "rare_every": 10**6, "watch": False}, log_every=1,
        checkpoint={"every_steps": every, "keep": 1} if every else False,
        sinks=[Sink(write=lambda _record: marks.append(time.perf_counter()))],
    )  # fmt: skip
    return [after - before for before, after in itertools.pairwise(marks)][WARM:]


def checkpoints(options: argparse.Namespace) -> None:
    """A row for each model: steps without checkpoints and with one every few seconds."""
    print("| model | state, MB | checkpoints | saves a run | median step, ms | longest step, ms | longest / median |")
    print("|---|---:|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        for name in options.model or MODELS:
            model = MODELS[name]
            probe = statistics.median(step_times(model, Path(place) / "probe", WARM + 30, None))
            every = max(20, math.ceil(options.seconds / probe))
            steps = WARM + 3 * every
            found: dict[str, list[list[float]]] = {"off": [], "on": []}
            for side in there_and_back(list(found), options.rounds):
                run = Path(place) / side
                found[side].append(step_times(model, run, steps, every if side == "on" else None))
            size = 3 * model.layers * model.width * (model.width + 1) * 4 / 1e6
            for side, runs in found.items():
                medians = [statistics.median(run) for run in runs]
                longest = [max(run) for run in runs]
                ratios = [most / middle for most, middle in zip(longest, medians, strict=True)]
                saves = steps // every if side == "on" else 0
                columns = [spread([1e3 * value for value in values]) for values in (medians, longest)]
                print(
                    f"| {name} | {size:.0f} | {side} | {saves} | {' | '.join(columns)} | {spread(ratios)} |", flush=True
                )


# -- the host's part of a call --------------------------------------------------------------------


class Caller:
    """One way to take steps: a function that takes one and returns something to wait for, and its state."""

    def __init__(self, step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batch: Any):
        self.step, self.state, self.batch = step, state, batch
        self.times()

    def times(self, calls: int = 60) -> tuple[float, float]:
        """The median of the seconds until a call returns, and until its step is done; nothing is under way before."""
        returned, done = [], []
        for _ in range(calls):
            began = time.perf_counter()
            self.state, out = self.step(self.state, self.batch)
            returned.append(time.perf_counter() - began)
            jax.block_until_ready((self.state, out))
            done.append(time.perf_counter() - began)
        return statistics.median(returned), statistics.median(done)


def _many_leaves() -> dict[str, Any]:
    return {f"layer_{i}": {"kernel": jnp.ones(4), "bias": jnp.ones(4)} for i in range(LEAVES // 2)}


def _sum_loss(params: Any, batch: Any, _key: Any = None) -> jax.Array:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)) * jnp.mean(batch["x"])


def callers(health: bool) -> dict[str, Caller]:
    """The library's step, the same program on a flat tuple, and SGD by hand on one."""
    batch, rate = {"x": np.ones(4, np.float32)}, 1e-6
    step = jaxprop.make_train_step(_sum_loss, optax.sgd(rate), health=health)
    detail = "rows" if health else "lean"
    state = step.init(_many_leaves(), key=jax.random.key(0))
    # By hand a key is two numbers, since only a step of one's own can know them for a key.
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: jnp.copy(_plain(leaf)), state))

    @jax.jit
    def pure(state: Any, batch: Any) -> Any:
        return step(state, batch, detail)

    def flat(leaves: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], Any]:
        plain = jax.tree.unflatten(structure, leaves)
        state = plain._replace(key=jax.random.wrap_key_data(plain.key))
        after, m = pure(state, {"x": x})
        return tuple(jax.tree.leaves(jax.tree.map(_plain, after))), m.packed

    def by_hand(leaves: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], Any]:
        loss, grads = jax.value_and_grad(lambda leaves: _sum_loss(leaves, {"x": x}))(leaves)
        return tuple(leaf - rate * grad for leaf, grad in zip(leaves, grads, strict=True)), loss

    return {
        "the library's step": Caller(lambda state, batch: step(state, batch, detail), state, batch),
        "the same program on a flat tuple": Caller(jax.jit(flat, donate_argnums=0), tuple(leaves), batch["x"]),
        "SGD by hand on a flat tuple": Caller(
            jax.jit(by_hand, donate_argnums=0), tuple(map(jnp.copy, jax.tree.leaves(_many_leaves()))), batch["x"]
        ),
    }


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def host(options: argparse.Namespace) -> None:
    """A row for each way to take a step of 218 leaves, with what it takes to that on a flat tuple."""
    print("| step of 218 leaves | µs until the call returns | to the flat tuple | µs until it is done | to it |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for health in (False, True):
        sides = callers(health)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for name in there_and_back(list(sides), 4 * options.rounds):
            found[name].append(sides[name].times())
        flat = found["the same program on a flat tuple"]
        for name, times in found.items():
            columns = []
            for kind in (0, 1):
                micros = [1e6 * one[kind] for one in times]
                ratios = [one[kind] / base[kind] for one, base in zip(times, flat, strict=True)]
                quarters = statistics.quantiles(ratios, n=4)
                columns += [spread(micros, ".0f"), f"{quarters[1]:.2f} ({quarters[0]:.2f}-{quarters[2]:.2f})"]
            print(f"| {name}, health={health} | {' | '.join(columns)} |", flush=True)


# -- steps a call ---------------------------------------------------------------------------------

TINY = {
    "digits_mlp": {},
    "MLP 64-32-10, batch 16": {"data.batch_size": 16, "model.hidden": [32]},
    "MLP 64-2048-2048-10, batch 64": {"model.hidden": [2048, 2048]},
}


def calls(options: argparse.Namespace) -> None:
    """A row for each small model: steps a second with one step a call, with `auto`, and with 20."""
    print("| model | one step a call, steps/s | auto, steps/s | chosen | 20 a call, steps/s | auto / one | 20 / one |")
    print("|---|---:|---:|---|---:|---:|---:|", flush=True)
    for name, changes in TINY.items():
        found: dict[str, list[float]] = {"1": [], "auto": [], "20": []}
        chosen = []
        for side in there_and_back(list(found), options.rounds):
            keys = {
                "run.steps_per_call": side, "run.epochs": "null", "run.steps": 4000, "run.eval_every": 2000,
                "run.log_every": 100, "health.every": 1, "health.rare_every": 100, "checkpoint.enabled": "false",
                **changes,
            }  # fmt: skip
            config = load("digits_mlp", [f"{key}={value}" for key, value in keys.items()]).config
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                rate = train(config, f"{place}/run", quiet=True).summary["examples_per_second"]
                if side == "auto":
                    chosen.append(load(f"{place}/run/config.yaml").config.run.steps_per_call)
            found[side].append(rate / config.data.batch_size)
        ratios = [
            spread([other / one for other, one in zip(found[side], found["1"], strict=True)]) for side in ("auto", "20")
        ]
        rates = {side: spread(values, ".0f") for side, values in found.items()}
        picked = ", ".join(map(str, sorted(set(chosen))))
        print(
            f"| {name} | {rates['1']} | {rates['auto']} | {picked} | {rates['20']} | {' | '.join(ratios)} |", flush=True
        )


# -- the data reader ------------------------------------------------------------------------------

TORCH = """
import sys, time, numpy as np, torch
folder, batch = sys.argv[1], int(sys.argv[2])
images = torch.from_numpy(np.load(folder + "/images.npy"))
labels = torch.from_numpy(np.load(folder + "/labels.npy"))
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
data = TensorDataset(images, labels)
whole = BatchSampler(RandomSampler(data), batch, False)
loaders = {
    "num_workers=0": DataLoader(data, batch, shuffle=True),
    "num_workers=2": DataLoader(data, batch, shuffle=True, num_workers=2, persistent_workers=True),
    "sampler=BatchSampler(...), batch_size=None": DataLoader(data, sampler=whole, batch_size=None),
}
for name, loader in loaders.items():
    rates = []
    for epoch in range(3):
        began, count = time.perf_counter(), 0
        for x, y in loader:
            count += len(x)
        rates.append(count / (time.perf_counter() - began))
    print(max(rates[1:]), name)
"""
USUAL = 2  # of these ways, as the documentation writes them; the third takes a batch at once


def write_images(folder: Path) -> None:
    """Random images and labels, as NumPy files and as the binaries of CIFAR-10."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    labels = rng.integers(0, 10, IMAGES).astype(np.int64)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.savez(folder / "arrays.npz", inputs=images, labels=labels)
    (folder / "cifar").mkdir()
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(IMAGES, -1)], axis=1)
    for i, part in enumerate(np.array_split(rows, 5)):
        part.tofile(folder / "cifar" / f"data_batch_{i + 1}.bin")


def ours(folder: Path, kind: str) -> Callable[[], float]:
    """Reads an epoch as the loop does, and returns examples a second."""
    sections: dict[str, Any] = {
        "arrays": {"name": "arrays", "train": str(folder / "arrays.npz")},
        "images": {"name": "images", "train": str(folder / "cifar")},
    }
    config = build({
        "task": {"name": "classify"}, "data": sections[kind] | {"batch_size": BATCH, "validation": 0.0002},
        "model": {"name": "mlp", "hidden": [8]}, "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"steps": 10},
    })  # fmt: skip
    experiment = compose(config)

    def epoch() -> float:
        with data.prefetch(experiment.stream, config.data.prefetch, lambda batch: batch) as batches:
            next(batches)
            began, count = time.perf_counter(), 0
            for batch, _ in itertools.islice(batches, IMAGES // BATCH):
                count += len(batch["inputs"])
            return count / (time.perf_counter() - began)

    return epoch


def reader(options: argparse.Namespace) -> None:
    """Examples a second of both sides in turns, and their ratios."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        write_images(folder)
        sides = {kind: ours(folder, kind) for kind in ("arrays", "images")}
        rates: dict[str, list[float]] = {kind: [] for kind in sides}
        peers: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for kind, epoch in sides.items():
                rates[kind].append(max(epoch() for _ in range(2)))
            if options.torch_python:
                command = [options.torch_python, "-c", TORCH, str(folder), str(BATCH)]
                said = subprocess.run(command, capture_output=True, text=True, check=True, env=_bare()).stdout
                for line in said.splitlines():
                    rate, name = line.split(maxsplit=1)
                    peers.setdefault(name, []).append(float(rate))
    title = f"{IMAGES:,} images, {SIDE} x {SIDE} x 3, batch {BATCH}, shuffled"
    print(f"| {title} | examples a second | to the DataLoader as usual | to it with whole batches |")
    print("|---|---:|---:|---:|")
    usual, whole = list(peers.values())[:USUAL], list(peers.values())[USUAL:]
    for kind, found in rates.items():
        ratios = [
            spread([one / max(others) for one, *others in zip(found, *forms, strict=True)]) if forms else ""
            for forms in (usual, whole)
        ]
        print(f"| data.name: {kind}, prefetched | {spread(found, ',.0f')} | {' | '.join(ratios)} |")
    for name, found in peers.items():
        print(f"| torch DataLoader, {name} | {spread(found, ',.0f')} | | |", flush=True)


def _bare() -> dict[str, str]:
    """The environment without what belongs to this process's interpreter."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_PRELOAD"))}


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "checkpoints": checkpoints,
    "host": host,
    "calls": calls,
    "reader": reader,
}


def main() -> None:
    """Prints the tables of the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=[*PARTS], help="only this part; may be repeated")
    parser.add_argument("--model", action="append", choices=[*MODELS], help="only this model's checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="between two checkpoints")
    parser.add_argument("--folder", default=None, help="on the disk to be measured; by default a temporary one")
    parser.add_argument("--torch-python", help="an interpreter that has torch, for the data reader")
    options = parser.parse_args()
    logging.getLogger("jaxprop").setLevel("ERROR")
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores", end="")
    print(f", load {os.getloadavg()[0]:.1f} at the start, Python {sys.version.split()[0]}")
    for part in options.part or PARTS:
        gc.collect()
        print(f"\n{part}, {options.rounds} rounds\n")
        PARTS[part](options)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
