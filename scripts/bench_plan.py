"""What `jaxprop plan` predicts against what is measured, each case in a process of its own.

    python scripts/bench_plan.py [--case NAME ...] [--mesh NAME ...] [--steps N] [--write]
    python scripts/bench_plan.py --gpu h100          # on a machine with that GPU: the time of a step

Memory, on 8 devices of this host: predicted is the peak of `jaxprop plan --devices 8`, eight times, without the
constants, which are part of the program. A CPU's devices report no memory, so measured is the rise of the peak of the
process's resident set over what it held before the state and the batch were made, once everything is compiled and a
step has run: the kernel's VmHWM, reset before the steps, less VmRSS before. All eight devices are in that process. The
C allocator is told to return every freed block from 64 KiB on, so that the resident set is what is in use. The
state is also counted directly, as the sum of its shards on all devices. Linux only.

Time, on a GPU: predicted are both ends of the roofline of `jaxprop plan --gpu NAME:1`, measured is the median of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DEVICES = 8
LM = [
    "run.eval_every=null",
    "data={name: random, shape: [128], vocabulary: 512, batch_size: 32}",
    "optimizer.schedule={name: constant}",
]
CASES: dict[str, tuple[str, list[str]]] = {
    "LM 4 x 256, T 128, batch 32": ("stdlib_lm", [*LM, "model.layers=4", "model.width=256", "model.heads=8"]),
    "LM 4 x 256, bfloat16, remat full": (
        "stdlib_lm",
        [*LM, "model.layers=4", "model.width=256", "model.heads=8", "precision.policy=bfloat16", "run.remat=full"],
    ),
    "LM 2 x 512, accumulate 2": (
        "stdlib_lm",
        [*LM, "model.layers=2", "model.width=512", "model.heads=8", "run.accumulate=2"],
    ),
    "MLP 3 x 2048, batch 1024": (
        "digits_mlp",
        ["optimizer.schedule={name: constant}", "model.hidden=[2048,2048,2048]", "data.batch_size=1024"],
    ),
    "CNN 64-128, batch 512": (
        "digits_cnn",
        ["optimizer.schedule={name: constant}", "model.channels=[64,128]", "data.batch_size=512"],
    ),
}
MESHES: dict[str, list[str]] = {
    "data 8": [],
    "fsdp 8": ["parallel.mesh.fsdp=8"],
    "data 2 x fsdp 4": ["parallel.mesh.data=2", "parallel.mesh.fsdp=4"],
    "fsdp 4 x tensor 2": ["parallel.mesh.fsdp=4", "parallel.mesh.tensor=2"],
    "fsdp 4 x sequence 2": ["parallel.mesh.fsdp=4", "parallel.mesh.sequence=2"],
}
HERE = Path(__file__).parent
BEGIN, END = "<!-- plan: memory -->", "<!-- plan: end -->"


def measure(config: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Predicts and measures the memory of eight host devices in this process."""
    import jax
    from bench_memory import give_back, status

    from jaxprop.config.load import load
    from jaxprop.parallel.placement import place_batch
    from jaxprop.run.compose import compose
    from jaxprop.tools.plan.compiled import place
    from jaxprop.tools.plan.subject import Subject
    from jaxprop.tools.plan.topology import host

    loaded = load(config, overrides).config
    planned = place(Subject(loaded), host(DEVICES))
    experiment = compose(loaded)
    example = next(experiment.stream)
    state = jax.block_until_ready(experiment.init(0))
    batch = place_batch(example, experiment.mesh)
    compiled = experiment.step.lower(state, batch, "rows").compile()
    # One step, so that threads, kernels and scratch memory that last are there.
    state, _ = jax.block_until_ready(compiled(state, batch))
    del state, batch
    give_back()
    before = status("VmRSS")
    state = jax.block_until_ready(experiment.init(0))
    batch = jax.block_until_ready(place_batch(example, experiment.mesh))
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves((state, batch)) for shard in leaf.addressable_shards)
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    for _ in range(steps):
        state, measured = jax.block_until_ready(compiled(state, batch))
    del measured
    words = {"parameters", "optimizer state", "moving average", "extras", "rest of the state", "batch"}
    return {
        "predicted": DEVICES * (planned.needed - planned.parts.get("constants", 0)),
        "measured": status("VmHWM") - before,
        "predicted_held": DEVICES * sum(count for name, count in planned.parts.items() if name in words),
        "held": held,
    }


def in_a_process(case: str, mesh: str, steps: int) -> dict[str, Any]:
    """Measures a case on a mesh in a process of its own."""
    from bench_memory import RETURNING

    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | RETURNING
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    command = [sys.executable, __file__, "--here", json.dumps([case, mesh]), "--steps", str(steps)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        return {"problem": ran.stderr.strip().splitlines()[-1]}
    return json.loads(ran.stdout.splitlines()[-1])


def memory_table(cases: list[str], meshes: list[str], steps: int) -> list[str]:
    """Lines of the table of memory, printed as they are known."""
    lines = [
        "| step | mesh | predicted, MiB | measured, MiB | predicted / measured | state and batch, predicted / counted |"
    ]
    lines.append("|---|---|---|---|---|---|")
    print(*lines, sep="\n", flush=True)
    for case in cases:
        for mesh in meshes:
            if "sequence" in mesh and not case.startswith("LM"):
                continue
            found = in_a_process(case, mesh, steps)
            if "problem" in found:
                lines.append(f"| {case} | {mesh} | {found['problem']} | | | |")
            else:
                predicted, measured = found["predicted"] / 2**20, found["measured"] / 2**20
                ratio, held = predicted / measured, found["predicted_held"] / found["held"]
                lines.append(f"| {case} | {mesh} | {predicted:.1f} | {measured:.1f} | {ratio:.3f} | {held:.3f} |")
            print(lines[-1], flush=True)
    return lines


def gpu_table(name: str, cases: list[str], steps: int) -> None:
    """Prints the time of a step of each case on the GPU of this machine, predicted and measured."""
    print("| step | predicted, ms | measured, ms | measured / longest predicted |\n|---|---|---|---|")
    for case in cases:
        config, overrides = CASES[case]
        command = [sys.executable, "-m", "jaxprop", "plan", config, *overrides, "--gpu", f"{name}:1", "--json"]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        times = json.loads(ran.stdout)["time"]
        command = [sys.executable, __file__, "--timed", case, "--steps", str(steps)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = json.loads(ran.stdout.splitlines()[-1])["seconds"]
        low, high = 1e3 * times["low"], 1e3 * times["high"]
        print(f"| {case} | {low:.3g} to {high:.3g} | {1e3 * seconds:.3g} | {1e3 * seconds / high:.2f} |", flush=True)


def timed(case: str, steps: int) -> dict[str, float]:
    """Measures the median time of a step on the first device of this machine."""
    import jax

    from jaxprop.config.load import load
    from jaxprop.run.compose import compose, place

    config, overrides = CASES[case]
    experiment = compose(load(config, [*overrides, "parallel.devices=1"]).config)
    state = experiment.init(0)
    batch, _ = place(experiment, next(experiment.stream))
    found = []
    for i in range(steps + 3):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.step(state, batch, "rows"))
        if i >= 3:  # compiled and warm
            found.append(time.perf_counter() - started)
    return {"seconds": statistics.median(found)}


def write(lines: list[str]) -> None:
    """Puts the table into BENCHMARKS.md, between its marks."""
    path = HERE / "BENCHMARKS.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES), help="default: all")
    parser.add_argument("--mesh", nargs="*", default=list(MESHES), choices=list(MESHES), help="default: all")
    parser.add_argument("--steps", type=int, default=3, help="steps that are measured")
    parser.add_argument("--write", action="store_true", help="write the table into BENCHMARKS.md")
    parser.add_argument("--gpu", help="measure the time of a step on this machine's GPU, of that model")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--timed", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        case, mesh = json.loads(options.here)
        config, overrides = CASES[case]
        print(json.dumps(measure(config, [*overrides, *MESHES[mesh]], options.steps)))
    elif options.timed:
        print(json.dumps(timed(options.timed, options.steps)))
    elif options.gpu:
        gpu_table(options.gpu, options.case, options.steps)
    else:
        lines = memory_table(options.case, options.mesh, options.steps)
        if options.write:
            write(lines)


if __name__ == "__main__":
    main()
