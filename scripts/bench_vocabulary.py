"""Memory and time of a train step whose logits are made whole, and in stretches of tokens.

    python scripts/bench_vocabulary.py [--vocabulary 32768] [--batch 8] [--length 512] [--width 64] [--chunks none 16]

A transformer of one layer on random tokens, without signals. Reported are the temporaries of the compiled step, the
median time of a step, and the time that the process had on its processors for it, which other work on the machine
changes less; and the loss of the first step.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

import jax

from jaxprop import data
from jaxprop.config.build import build
from jaxprop.run.compose import compose


def measured(args: argparse.Namespace, chunks: str) -> tuple[float, float, float, float]:
    """Compiles a step and takes some; returns MiB of temporaries, ms a step, ms on the processors, and the loss."""
    config = build({
        "task": {"name": "language"},
        "data": {
            "name": "random", "shape": [args.length], "vocabulary": args.vocabulary, "examples": 2 * args.batch,
            "batch_size": args.batch,
        },
        "model": {"name": "transformer", "layers": 1, "width": args.width, "heads": 4},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "precision": {"policy": args.policy},
        "parallel": {"devices": 1},
        "run": {"steps": 10, "vocabulary_chunks": int(chunks) if chunks.isdigit() else chunks},
    })  # fmt: skip
    experiment = compose(config)
    state, batch = experiment.init(0), next(data.one_pass(experiment.sources["train"], args.batch))
    compiled = experiment.step.lower(state, batch, "lean").compile()
    times, busy, losses = [], [], []
    for _ in range(args.steps + 1):
        start, used = time.perf_counter(), time.process_time()
        state, m = jax.block_until_ready(compiled(state, batch))
        times.append(1e3 * (time.perf_counter() - start))
        busy.append(1e3 * (time.process_time() - used))
        losses.append(float(m.loss))
    temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return temporaries, statistics.median(times[1:]), statistics.median(busy[1:]), losses[0]


def main() -> None:
    """Prints one row for each number of stretches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {"vocabulary": 32768, "batch": 8, "length": 512, "width": 64, "steps": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--chunks", nargs="+", default=["none", "4", "16", "64"])
    args = parser.parse_args()
    print("| vocabulary_chunks | temporaries MiB | step ms | on processors ms | loss |\n|---|---|---|---|---|")
    for chunks in args.chunks:
        temporaries, step, busy, loss = measured(args, chunks)
        print(f"| {chunks} | {temporaries:.0f} | {step:.0f} | {busy:.0f} | {loss:.6f} |", flush=True)
        jax.clear_caches()
        gc.collect()


if __name__ == "__main__":
    main()
