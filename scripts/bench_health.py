"""Cost of gradient health: the train step with all default signals against the same step with none.

    python scripts/bench_health.py [--rounds N] [--case NAME ...] [--compile-only]

Each variant of the step is timed by itself: none, none again (the A/A pair), rows for every layer, and everything. A
round takes them in this order and back; the ratio of a round is that to the first, and that of a run weighs the
variants as often as a run takes them (`health.every: auto`, chosen here as a run chooses it). Reported is the median
over rounds with its quartiles, and the time of the first compilation, from the call to the program, with empty caches.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import optax
from bench_step import Case, Runner, language_model, mlp

import jaxprop
from jaxprop.config.schema.run import Health
from jaxprop.health import Signals
from jaxprop.run.pace import FULL_CALLS, ROW_CALLS, Pace, rows_seconds
from jaxprop.train.compiled import TrainStep

CASES: dict[str, Callable[[], Case]] = {
    "MLP, batch 4096": lambda: mlp(4096, [784, 1024, 1024, 10], 1),
    "transformer LM, 4096 tokens": lambda: language_model(4096, 1, vocabulary=1280),
    "tiny MLP, batch 64": lambda: mlp(64, [64, 128, 128, 10], 100),
}
VARIANTS = ((False, "lean"), (True, "rows"), (True, "full"))
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))


def make_step(case: Case, health: bool | Signals) -> TrainStep:
    """The step of a case."""
    return jaxprop.make_train_step(case.loss_fn, TX, health=health, clip=1.0)


def runner(case: Case, health: bool, detail: str) -> Runner:
    """One variant of the step; its first timing, which compiles it, is made."""
    step, state = make_step(case, health), jaxprop.init_state(case.params, TX, key=jax.random.key(0))
    return Runner(lambda state, batch: step(state, batch, detail), state, case.batch, case.steps)


def choose(case: Case) -> tuple[Signals, str]:
    """How often a run of this case would measure what, by `Pace`."""
    pace, step = Pace(Health()), make_step(case, True)
    state = jaxprop.init_state(case.params, TX, key=jax.random.key(0))
    rows = rows_seconds(state)
    for detail, calls in (("rows", ROW_CALLS), ("full", FULL_CALLS)):
        state, _ = step(state, case.batch, detail)
        for _ in range(calls):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, case.batch, detail))
            pace.book(detail, time.perf_counter() - start)
    line = pace.choose(rows)
    return Signals(*pace.state()), line


def compile_seconds(case: Case, health: bool | Signals) -> float:
    """Time from nothing to the program of the first step."""
    jax.clear_caches()
    step, state = make_step(case, health), jaxprop.init_state(case.params, TX, key=jax.random.key(0))
    start = time.perf_counter()
    step.lower(state, case.batch).compile()
    return time.perf_counter() - start


def rounds_of(runners: Sequence[Runner], count: int) -> list[list[float]]:
    """Seconds of each variant in each round."""
    found = []
    for _ in range(count):
        there = [variant.time() for variant in runners]
        back = [variant.time() for variant in reversed(runners)]
        found.append([(a + b) / 2 for a, b in zip(there, reversed(back), strict=True)])
    return found


def quartiles(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def report(name: str, case: Case, count: int) -> None:
    """Prints one row of the table of step times."""
    signals, line = choose(case)
    taken = Counter(signals.detail(step, step).replace("flush", "full") for step in range(1, 10_001))
    share = {detail: taken[detail] / 10_000 for detail in ("lean", "rows", "full")}
    variants = [runner(case, False, "lean"), *(runner(case, health, detail) for health, detail in VARIANTS)]
    times = rounds_of(variants, count)
    # A lean step with health is the program of a step without.
    run = [(share["lean"] * none + share["rows"] * rows + share["full"] * full) / none for none, _, rows, full in times]
    columns = [quartiles([each[i] / each[0] for each in times]) for i in (2, 3, 1)]
    milliseconds = statistics.median(each[0] for each in times) / case.steps * 1e3
    chosen = line.removeprefix("health: ")
    print(f"| {name} | {chosen} | {milliseconds:.3f} | {' | '.join([quartiles(run), *columns])} |", flush=True)


def report_compiling(name: str, case: Case, repeats: int) -> None:
    """Prints one row of the table of compile times."""
    pairs = [(compile_seconds(case, True), compile_seconds(case, False)) for _ in range(repeats)]
    ratios = [ours / none for ours, none in pairs]
    ours_s, none_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"| {name} | {none_s:.2f} | {ours_s:.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


def main() -> None:
    """Runs the chosen cases and prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of a case")
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be repeated")
    parser.add_argument("--compile-only", action="store_true", help="only the table of compile times")
    args = parser.parse_args()
    device = jax.devices()[0]
    cases = {name: CASES[name]() for name in args.case or CASES}
    print(f"jax {jax.__version__}, optax {optax.__version__}, {device.device_kind}, {platform.machine()}\n")
    print("| first compilation | none, s | all signals, s | ratio (quartiles) |")
    print("|---|---|---|---|")
    for name, case in cases.items():
        report_compiling(name, case, 11)
    if not args.compile_only:
        print("\n| step | chosen | none, ms | a run (quartiles) | rows | everything | A/A |")
        print("|---|---|---|---|---|---|---|")
        for name, case in cases.items():
            report(name, case, args.rounds)


if __name__ == "__main__":
    main()
