"""Cost of gradient health: the train step with all default signals against the same step with none.

    python scripts/bench_health.py [--pairs N] [--case NAME ...] [--compile-only]

How often the signals are measured is chosen as a run chooses it (`health.every: auto`). One timing takes whole cycles
of that rhythm, so that every signal is in it as often as in a run. Runs alternate A B B A; what is reported is the
median of the pairwise ratios with its quartiles, an A/A pair (none against none) for the noise, and the time of the
first compilation, from the call to the program, with the caches empty.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import jax
import optax
from bench_step import Case, Runner, compare, language_model, mlp

import jaxprop
from jaxprop.config.schema import Health
from jaxprop.health import Signals
from jaxprop.pace import FULL_CALLS, ROW_CALLS, Pace, rows_seconds

CASES: dict[str, Callable[[], Case]] = {
    "MLP, batch 4096": lambda: mlp(4096, [784, 1024, 1024, 10], 1),
    "transformer LM, 4096 tokens": lambda: language_model(4096, 1, vocabulary=1280),
    "tiny MLP, batch 64": lambda: mlp(64, [64, 128, 128, 10], 100),
}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))


def make_step(case: Case, health: bool | Signals) -> jaxprop.step.TrainStep:
    """The step of a case."""
    return jaxprop.make_train_step(case.loss_fn, TX, health=health, clip=1.0)


def runner(case: Case, health: bool | Signals, steps: int) -> Runner:
    """One side of the comparison; its first timing, which compiles every variant, is made."""
    return Runner(
        make_step(case, health), jaxprop.init_state(case.params, TX, key=jax.random.key(0)), case.batch, steps
    )


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


def report(name: str, case: Case, pairs: int) -> None:
    """Prints one row of the table of step times."""
    signals, line = choose(case)
    cycle = signals.rare_every * max(1, round(case.steps / signals.rare_every))
    ours, none, again = (runner(case, health, cycle) for health in (signals, False, False))
    ratio, low, high, ours_s, none_s = compare(ours, none, pairs)
    noise, noise_low, noise_high, *_ = compare(again, none, pairs)
    print(
        f"| {name} | {line.removeprefix('health: ')} | {none_s / cycle * 1e3:.3f} | {ours_s / cycle * 1e3:.3f} "
        f"| {ratio:.3f} ({low:.3f}-{high:.3f}) | {noise:.3f} ({noise_low:.3f}-{noise_high:.3f}) |",
        flush=True,
    )


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
    parser.add_argument("--pairs", type=int, default=9, help="ABBA quadruples a case")
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be repeated")
    parser.add_argument("--compile-only", action="store_true", help="only the table of compile times")
    args = parser.parse_args()
    device = jax.devices()[0]
    cases = {name: CASES[name]() for name in args.case or CASES}
    print(f"jax {jax.__version__}, optax {optax.__version__}, {device.device_kind}, {platform.machine()}\n")
    print("| first compilation | none, s | all signals, s | ratio (quartiles) |")
    print("|---|---|---|---|")
    for name, case in cases.items():
        report_compiling(name, case, 5)
    if not args.compile_only:
        print("\n| step | chosen | none, ms | all signals, ms | ratio (quartiles) | A/A |")
        print("|---|---|---|---|---|---|")
        for name, case in cases.items():
            report(name, case, args.pairs)


if __name__ == "__main__":
    main()
