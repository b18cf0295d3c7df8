"""The predicted peak memory of a train step against the measured one, on CPU, each in a process of its own.

    python scripts/bench_memory.py [--case NAME ...] [--allocator returning|system|train ...] [--steps N]

Predicted is what `jaxprop info --memory` shows, without the constants, which are part of the program. Measured is the
rise of the peak of the resident set over what the process held before the state and the batch were made, once
everything is compiled: the kernel's VmHWM, reset before the steps, less VmRSS before. Freed memory is given back to the
kernel first, so that the steps cannot take it over unseen. `returning` is the C library's allocator, told to return
every freed block from 64 KiB on, so that the resident set is what is in use; `system` the same as it comes; `train`
the one that `jaxprop train` starts with, where one is installed. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprop.config.load import load
from jaxprop.run.allocator import VARIABLE, allocator_in_use, environment_with, find_allocator
from jaxprop.run.compose import compose
from jaxprop.train.memory import predict

TEXT = ["data.max_bytes=2000000", "optimizer.schedule={name: constant}"]
DIGITS = ["optimizer.schedule={name: constant}"]
# name -> config and overrides
MODELS: dict[str, tuple[str, list[str]]] = {
    "MLP 4 x 2048, batch 1024": ("digits_mlp", [*DIGITS, "model.hidden=[2048,2048,2048,2048]", "data.batch_size=1024"]),
    "CNN 64-128 x 2, batch 512": (
        "digits_cnn",
        [*DIGITS, "model.channels=[64,128]", "model.convs_per_block=2", "data.batch_size=512"],
    ),
    "LSTM 2 x 256, T 128, batch 64": (
        "stdlib_lm",
        [*TEXT, "model={name: rnn, width: 256, layers: 2}", "data.batch_size=64"],
    ),
    "transformer 6 x 256, T 128, batch 32": (
        "stdlib_lm",
        [*TEXT, "model.layers=6", "model.width=256", "data.batch_size=32"],
    ),
}
VARIANTS: dict[str, list[str]] = {
    "float32": [],
    "bfloat16": ["precision.policy=bfloat16"],
    "accumulate 4": ["run.accumulate=4"],
    "remat full": ["run.remat=full"],
    "bfloat16, accumulate 4, remat full": ["precision.policy=bfloat16", "run.accumulate=4", "run.remat=full"],
}
CASES: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in ("digits_mlp", "digits_cnn", "stdlib_lm")},
    **{
        f"{model}, {variant}": (config, [*overrides, *more])
        for model, (config, overrides) in MODELS.items()
        for variant, more in VARIANTS.items()
    },
}
ALL_ARENAS = 4096  # of jemalloc
ALLOCATORS = ("returning", "system", "train")
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def status(field: str) -> int:
    """A size from the kernel's status of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this kernel reports no {field}")


def give_back() -> None:
    """Returns freed memory to the kernel, as far as the allocator can."""
    gc.collect()
    library = ctypes.CDLL(None)
    for call in (
        lambda: library.malloc_trim(0),
        lambda: library.mallctl(f"arena.{ALL_ARENAS}.purge".encode(), None, None, None, 0),
    ):
        with contextlib.suppress(AttributeError):
            call()


def measure(config: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Predicts and measures in this process."""
    experiment = compose(load(config, overrides).config)
    example = next(experiment.stream)
    state = jax.block_until_ready(experiment.init(0))
    compiled = experiment.step.lower(state, example, "full").compile()
    found = predict(compiled)
    assert found is not None
    # One step, so that threads, kernels and scratch memory that last are there.
    state, _ = jax.block_until_ready(compiled(state, example))
    del state
    give_back()
    before = status("VmRSS")
    state = jax.block_until_ready(experiment.init(0))
    batch = {name: np.copy(values) for name, values in example.items()}
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    for _ in range(steps):
        state, measured = jax.block_until_ready(compiled(state, batch))
    del measured
    predicted = found.peak - found.parts.get("constants", 0)
    return {"predicted": predicted, "measured": status("VmHWM") - before, "allocator": allocator_in_use()}


def in_a_process(name: str, allocator: str, steps: int) -> dict[str, Any]:
    """Measures a case in a process of its own, with an allocator."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    library = find_allocator(environment | ({} if allocator == "train" else {VARIABLE: "off"}))
    if allocator == "returning":
        environment |= RETURNING
    if library is not None:
        environment = environment_with(library, environment)
    command = [sys.executable, __file__, "--here", name, "--steps", str(steps)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES), help="default: all")
    parser.add_argument("--allocator", nargs="*", default=list(ALLOCATORS), choices=ALLOCATORS)
    parser.add_argument("--steps", type=int, default=3, help="steps that the peak is taken over")
    parser.add_argument("--here", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(*CASES[options.here], options.steps)))
        return
    print("| step | allocator | predicted, MiB | measured, MiB | predicted / measured |\n|---|---|---|---|---|")
    for name in options.case:
        for allocator in options.allocator:
            found = in_a_process(name, allocator, options.steps)
            predicted, measured = found["predicted"] / 2**20, found["measured"] / 2**20
            ratio = predicted / measured if measured > 0 else float("inf")
            which = found["allocator"] if allocator == "train" else allocator
            print(f"| {name} | {which} | {predicted:.1f} | {measured:.1f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
