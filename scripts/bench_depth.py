"""Compile time and step time of deep models: layers one by one, and as one scan.

    python scripts/bench_depth.py [--layers 12 32 48] [--width 64 256] [--detail lean full] [--steps N]

A train step of a transformer on random tokens (batch 4, length 64), with `run.scan_layers` of 1 and `none`.
Reported are the seconds to trace and compile, the median time of a step with its quartiles, and of both the time that
the process had on its processors, which other work on the machine changes less. `lean` is a step without signals, and
`full` one with all of them, whose trace reads each layer by itself.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop import data
from jaxprop.config.build import build
from jaxprop.run.compose import compose


def drawn(leaf: Any) -> Any:
    """An array for a leaf of the state: the program that draws real parameters would take as long to compile."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.asarray(np.abs(np.random.default_rng(0).normal(0, 0.02, leaf.shape)).astype(leaf.dtype))
    return jnp.zeros(leaf.shape, leaf.dtype)


def measured(layers: int, width: int, detail: str, scanned: bool, steps: int) -> dict[str, Any]:
    """Compiles a step and takes some; returns seconds and bytes."""
    config = build({
        "task": {"name": "language"},
        "data": {"name": "random", "shape": [64], "vocabulary": 256, "examples": 64, "batch_size": 4},
        "model": {"name": "transformer", "layers": layers, "width": width, "heads": 4},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "parallel": {"devices": 1},
        "run": {"steps": 10, "scan_layers": 1 if scanned else "none"},
    })  # fmt: skip
    experiment = compose(config)
    state = jax.tree.map(drawn, jax.eval_shape(lambda: experiment.init(0)))
    batch = next(data.one_pass(experiment.sources["train"], 4))
    wall, busy = time.perf_counter(), time.process_time()
    lowered = experiment.step.lower(state, batch, detail)
    traced = time.perf_counter() - wall
    compiled = lowered.compile()
    found = {"compile_s": time.perf_counter() - wall, "compile_cpu_s": time.process_time() - busy, "trace_s": traced}
    found["temporaries_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    times, cpu = [], []
    for _ in range(steps + 1):
        wall, busy = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times.append(1e3 * (time.perf_counter() - wall))
        cpu.append(1e3 * (time.process_time() - busy))
    low, middle, high = statistics.quantiles(times[1:], n=4)
    return found | {"step_ms": middle, "quartiles": (low, high), "step_cpu_ms": statistics.median(cpu[1:])}


def main() -> None:
    """Prints one row for each depth, width, detail and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 32, 48])
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--detail", nargs="+", choices=["lean", "full"], default=["lean"])
    parser.add_argument("--steps", type=int, default=15)
    args = parser.parse_args()
    print("| layers | width | step | form | trace s | compile s (cpu) | step ms (cpu) | quartiles | temporaries MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for layers, width, detail in [(n, w, d) for n in args.layers for w in args.width for d in args.detail]:
        for scanned in (True, False):
            row = measured(layers, width, detail, scanned, args.steps)
            low, high = row["quartiles"]
            cells = [
                layers, width, detail, "scan" if scanned else "one by one", f"{row['trace_s']:.1f}",
                f"{row['compile_s']:.1f} ({row['compile_cpu_s']:.1f})",
                f"{row['step_ms']:.0f} ({row['step_cpu_ms']:.0f})", f"{low:.0f} to {high:.0f}",
                f"{row['temporaries_mib']:.0f}",
            ]  # fmt: skip
            print("|", " | ".join(map(str, cells)), "|", flush=True)
            jax.clear_caches()
            gc.collect()


if __name__ == "__main__":
    main()
