"""Damages checkpoints of a small state at random and writes the table of docs/results/FAULTS.md.

    python scripts/faults_checkpoint.py [--trials 2000] [--seed 0] [--jobs 2] [--write]

The state is that of a classifier with AdamW, a moving average and a random key, saved twice; each trial damages one
file of the newer checkpoint, in a copy, and restores it in this process.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jaxprop.checkpoint import Checkpoints  # noqa: E402
from jaxprop.types import TrainState  # noqa: E402
from jaxprop.version import versions  # noqa: E402
from tests.checkpoint.damage import CAUGHT, HARMLESS, KINDS, NEWER, OLDER, SILENT, Trial, trial  # noqa: E402

PAGE = ROOT / "docs" / "results" / "FAULTS.md"
TITLE = "## Damaged checkpoints"


def make_state(seed: int) -> TrainState:
    """Returns a state with every kind of leaf that a run has: 40 kB."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "dense": {"kernel": jax.random.normal(keys[0], (32, 64)), "bias": jax.random.normal(keys[1], (64,))},
        "head": {"kernel": jax.random.normal(keys[2], (64, 10), jnp.bfloat16)},
    }
    moments = jax.tree.map(lambda p: jax.random.normal(keys[3], p.shape, p.dtype), params)
    adam = optax.adamw(1e-3).init(params)
    opt_state = (adam[0]._replace(mu=moments, nu=jax.tree.map(jnp.square, moments)), *adam[1:])
    health = {"skips": jnp.int32(seed)}
    return TrainState(
        jnp.int32(seed), params, {}, opt_state, jax.random.key(seed), jnp.float32(8), health, {"params": params}
    )


def saved(folder: Path) -> TrainState:
    """Saves the states of two steps and returns that of the newer one."""
    with Checkpoints(folder) as checkpoints:
        for step in (OLDER, NEWER):
            stream = {"data": {"epoch": 1, "position": step, "fingerprint": "f00d"}}
            checkpoints.save(step, make_state(step), stream=stream, config={"run": {"seed": 7}}, metrics={"loss": 0.5})
    return make_state(NEWER)


def table(trials: list[Trial], seconds: float, seed: int) -> str:
    """Returns the section of the page."""
    used = ", ".join(f"{name} {versions()[name]}" for name in ("jax", "orbax-checkpoint"))
    rows = []
    for file in sorted({one.file for one in trials}):
        for kind in KINDS:
            of = [one for one in trials if (one.file, one.kind) == (file, kind)]
            rows += [f"| `{file}` | {kind} | {_counts(of)} |"] if of else []
    caught = [one for one in trials if one.outcome == CAUGHT]
    leaf = sum("differs from its digest" in one.told and "manifest" not in one.told for one in caught)
    record = sum("its manifest.json" in one.told for one in caught)
    return f"""{TITLE}

`python scripts/faults_checkpoint.py --trials {len(trials)} --seed {seed} --write`: each trial damages one file of the
newest of two checkpoints and restores. Half of the trials draw among files, the others among bytes.

- caught: the damage was told and the older checkpoint restored;
- harmless: the same bits were restored, since what was damaged is not needed for them;
- silent: other bits, or an older checkpoint, without a word.

| file | damage | trials | caught | harmless | silent |
|---|---|---:|---:|---:|---:|
{chr(10).join(rows)}
| all | | {_counts(trials)} |

Of the {len(caught)} that were caught, {leaf} were told by a leaf that differs from its digest, {record} by the
manifest, and {len(caught) - leaf - record} by leaves that cannot be read. {seconds:.0f} s, with {used}.
"""


def _counts(trials: list[Trial]) -> str:
    outcomes = [one.outcome for one in trials]
    return " | ".join(str(count) for count in (len(outcomes), *map(outcomes.count, (CAUGHT, HARMLESS, SILENT))))


def some(seeds: range) -> list[Trial]:
    """Runs trials in a folder of their own."""
    with tempfile.TemporaryDirectory() as place:
        expected = saved(Path(place) / "checkpoints")
        return [trial(Path(place) / "checkpoints", expected, seed) for seed in seeds]


def main() -> None:
    """Runs the trials and prints the section, or writes it into the page; an interrupt ends it with those so far."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    last, began, trials = asked.seed + asked.trials, time.monotonic(), []
    parts = [range(first, min(first + 50, last)) for first in range(asked.seed, last, 50)]
    pool = ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn"))
    try:
        for done in pool.map(some, parts) if asked.jobs > 1 else map(some, parts):
            trials += done
            print(f"{len(trials)} trials", file=sys.stderr)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
    for seed, one in enumerate(trials, start=asked.seed):
        if one.outcome == SILENT:
            print(f"seed {seed}: {one}", file=sys.stderr)
    section = table(trials, time.monotonic() - began, asked.seed)
    print(section)
    if asked.write:
        text = (
            PAGE.read_text()
            if PAGE.exists()
            else "# Faults\n\nWhat was done to runs on purpose, and what became of it.\n"
        )
        before, _, rest = text.partition(TITLE)
        after = re.search(r"^## ", rest, re.MULTILINE)
        PAGE.write_text(before.rstrip() + "\n\n" + section + ("\n" + rest[after.start() :] if after else ""))


if __name__ == "__main__":
    main()
