"""What a checkpoint costs, and what of it is its digests: a 100M-parameter state of Adam, 1.2 GB.

    python scripts/bench_checkpoint.py [--parameters 100000000] [--rounds 5] [--folder DIR]

Times, each the median of the rounds: the digests alone; how long `save` keeps training waiting, with the digests and
without them, in turns; how long the save then takes in the background, which is how long a second one would wait; and
a restore with its verification. CPU seconds, of all threads, are what is left of a figure on a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from jaxprop.checkpoint import Checkpoints, checkpoints, verify
from jaxprop.checkpoint.digests import digest, sum_on_devices
from jaxprop.checkpoint.leaves import pack
from jaxprop.types import TrainState

LAYERS, MINUTE = 24, 60.0


def make_state(parameters: int) -> TrainState:
    """Returns the state of Adam over square kernels and their biases, of values that do not compress."""
    width = int((parameters / LAYERS) ** 0.5)
    keys = jax.random.split(jax.random.key(0), LAYERS)
    params = {
        f"layer{i}": {"kernel": jax.random.normal(key, (width, width)), "bias": jnp.ones(width)}
        for i, key in enumerate(keys)
    }
    adam = optax.adam(1e-3).init(params)
    moments = jax.tree.map(lambda p: p * 0.1, params)
    opt_state = (adam[0]._replace(mu=moments, nu=jax.tree.map(jnp.square, moments)), *adam[1:])
    return jax.block_until_ready(
        TrainState(jnp.int32(1), params, {}, opt_state, jax.random.key(1), (), {"skips": jnp.int32(0)}, ())
    )


def seconds(work) -> tuple[float, float]:
    """Returns how long a call takes, and the CPU seconds of all threads meanwhile."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def none(arrays, **_):
    """The digests of nothing, to save without."""
    return lambda: dict.fromkeys(arrays, "")


def rounds(state: TrainState, folder: Path, count: int) -> dict[str, list[tuple[float, float]]]:
    """Returns the times of all rounds, by what was timed."""
    arrays = pack(state)[0]
    times: dict[str, list[tuple[float, float]]] = {}
    compiled = jax.jit(lambda arrays: {name: sum_on_devices(array) for name, array in arrays.items()})
    times["compiling the digests of all leaves for the devices, which is not done on a CPU"] = [
        seconds(lambda: compiled.lower(arrays).compile())
    ]
    for i in range(count):
        times.setdefault("digests alone", []).append(seconds(lambda: digest(arrays)()))
        for how in (digest, none) if i % 2 else (none, digest):
            checkpoints.digest = how
            name = "with" if how is digest else "without"
            with Checkpoints(folder / f"{name}{i}", keep=1) as saved:
                taken = seconds(lambda saved=saved: saved.save(1, state, stream={}, config={}))
                times.setdefault(f"save, until training goes on, {name} digests", []).append(taken)
                times.setdefault(f"save, then in the background, {name} digests", []).append(seconds(saved.wait))
                if how is digest:
                    taken = seconds(lambda saved=saved: jax.block_until_ready(saved.restore(state).state))
                    times.setdefault("restore, verified", []).append(taken)
                saved.clear()
    checkpoints.digest = verify.digest
    return times


def main() -> None:
    """Prints a table for scripts/BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="on the disk to be measured; by default a temporary one")
    asked = parser.parse_args()
    state = make_state(asked.parameters)
    size = sum(array.nbytes for array in pack(state)[0].values())
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        times = rounds(state, Path(place), asked.rounds)
    print(f"{len(jax.tree.leaves(state))} leaves, {size / 1e9:.2f} GB, on {jax.devices()[0].device_kind}\n")
    print("| what | s, median (least-most) | CPU s, median (least-most) |\n|---|---:|---:|")
    for name, values in times.items():
        columns = [f"{statistics.median(one):.2f} ({min(one):.2f}-{max(one):.2f})" for one in zip(*values, strict=True)]
        print(f"| {name} | {' | '.join(columns)} |")
    shares = [statistics.median(one) / MINUTE for one in zip(*times["digests alone"], strict=True)]
    print(f"\nThe digests take {shares[0]:.2%} of a minute, and {shares[1]:.2%} of a core's.")


if __name__ == "__main__":
    main()
