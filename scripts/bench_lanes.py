"""Steps of runs as lanes of one step against steps of one run after another, over sizes of models.

    python scripts/bench_lanes.py [--lanes 8 24] [--rounds 5] [--only mlp lm]

For each size the typical step of one run, and the step of all lanes divided by their number, are timed in turn,
`rounds` times each. Reported are the medians, the median of the ratios with its least and most, and the ratios of one
run's step to itself in the next round (A/A). Above 1 the lanes are slower.
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import jax

from jaxprop.tools.sweep import Axis, plan
from jaxprop.tools.sweep.choice import choose, seconds_together
from jaxprop.tools.sweep.programs import Group, groups

MLP = [(f"mlp, hidden {width}", "digits_mlp", [f"model.hidden=[{width},{width}]"]) for width in (16, 64, 256, 1024)]
LM = [
    (f"transformer, width {width}", "stdlib_lm", ["model.layers=2", "model.heads=2", f"model.width={width}"])
    for width in (32, 64, 128, 256)
]
CASES = {"mlp": MLP, "lm": LM}
SECONDS = 1.0  # for which one run's step is timed in a round


def made(config: str, words: list[str], count: int) -> Group:
    """As many runs of one program as there are lanes, which differ in their rate."""
    axis = Axis("optimizer.lr", tuple(1e-4 * (1 + i) for i in range(count)))
    (group,) = groups(plan(config, [axis], words).trials)
    return group


def row(name: str, group: Group, lanes: int, rounds: int) -> str:
    """Measures one size."""
    chosen = choose(group, lanes)
    assert chosen.lanes is not None
    assert group.program is not None
    alone, each = [], []
    for _ in range(rounds):
        alone.append(group.program.typical(SECONDS))
        each.append(seconds_together(chosen.group, chosen.lanes) / lanes)
    ratios = [b / a for a, b in zip(alone, each, strict=True)]
    same = [b / a for a, b in itertools.pairwise(alone)]
    times = f"{1e3 * statistics.median(alone):.3g} | {1e3 * statistics.median(each):.3g}"
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {lanes} | {times} | {spread} | {min(same):.2f} to {max(same):.2f} |"


def main() -> None:
    """Prints one row for each size and number of lanes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, nargs="*", default=[8, 24])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| model | lanes | ms a step alone | ms a step and lane | ratio | A/A |\n|---|---:|---:|---:|---|---|")
    for name, config, words in itertools.chain.from_iterable(CASES[only] for only in args.only):
        for lanes in args.lanes:
            print(row(name, made(config, words, lanes), lanes, args.rounds), flush=True)


if __name__ == "__main__":
    main()
