"""Cost of the jaxprop train step against the same optax step written by hand.

    python scripts/bench_step.py [--pairs N] [--case NAME ...]

Both sides share the loss, the optimizer (global-norm clipping and AdamW) and the data, and live in one process.
Runs alternate A B B A; what is reported is the median of the pairwise ratios with its quartiles, an A/A pair
(the hand-written step against itself) for the noise, and the peak memory the compiler plans for each. What gradient
health adds to it is what `bench_health.py` measures.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.train.objective import loss_from


class Case(NamedTuple):
    """One workload: a loss, its parameters and a batch, and how many steps one timing takes."""

    loss_fn: Callable
    params: Any
    batch: dict[str, np.ndarray]
    steps: int


def mlp(batch_size: int, sizes: list[int], steps: int) -> Case:
    """Multi-layer perceptron with random inputs and labels; random, so that nothing decays to denormals."""
    rng = np.random.default_rng(0)
    params = {
        f"dense_{i}": {
            "kernel": jnp.asarray(rng.normal(0, (2 / n) ** 0.5, (n, m)), jnp.float32),
            "bias": jnp.zeros(m, jnp.float32),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }

    def loss_fn(params, batch, _key):
        x = batch["inputs"]
        for i in range(len(sizes) - 1):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
            x = jax.nn.relu(x) if i < len(sizes) - 2 else x
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(x, batch["labels"]))

    batch = {
        "inputs": rng.normal(size=(batch_size, sizes[0])).astype(np.float32),
        "labels": rng.integers(0, sizes[-1], batch_size).astype(np.int32),
    }
    return Case(loss_fn, params, batch, steps)


def language_model(tokens: int, steps: int, vocabulary: int = 256) -> Case:
    """The built-in transformer, 6 layers of width 256, on random tokens."""
    from jaxprop import models
    from jaxprop.config.schema.model import Transformer
    from jaxprop.core.precision import policy
    from jaxprop.types import Spec

    length = 256
    model = models.make_model(
        Transformer(name="transformer", layers=6, width=256, heads=8),
        Spec({"inputs": jax.ShapeDtypeStruct((length,), jnp.int32)}, {"vocabulary": vocabulary}),
    )
    rng = np.random.default_rng(0)
    data = rng.integers(0, vocabulary, (tokens // length, length + 1)).astype(np.int32)
    batch = {"inputs": data[:, :-1], "labels": data[:, 1:]}
    params, extras = model.init(jax.random.key(0), batch)
    objective = loss_from(model, softmax_cross_entropy)

    def loss_fn(params, batch, key):
        return objective.mean_loss(params, extras, batch, key, policy("float32"))[0]

    return Case(loss_fn, params, batch, steps)


CASES: dict[str, Callable[[], Case]] = {
    "MLP, batch 4096": lambda: mlp(4096, [784, 1024, 1024, 10], 1),
    "transformer LM, 4096 tokens": lambda: language_model(4096, 1),
    "tiny MLP, batch 64": lambda: mlp(64, [64, 128, 128, 10], 200),
}


def by_hand(case: Case, tx: optax.GradientTransformation, steps_per_call: int = 1) -> Callable:
    """The step as one would write it with optax: gradient, update, apply; donated."""

    def step(carry, batch):
        params, opt_state, count = carry
        key = jax.random.fold_in(jax.random.key(0), count)
        loss, grads = jax.value_and_grad(case.loss_fn)(params, batch, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, count + 1), loss

    body = step if steps_per_call == 1 else lambda carry, batches: jax.lax.scan(step, carry, batches)
    return jax.jit(body, donate_argnums=0)


class Runner:
    """One side of a comparison: its compiled step, its state, and a timing of `steps` steps."""

    def __init__(self, step: Callable, state: Any, batch: Any, calls: int):
        self.step, self.state, self.batch, self.calls = step, state, batch, calls
        self.time()

    def time(self) -> float:
        """Seconds for the calls, until the whole state is ready."""
        start = time.perf_counter()
        for _ in range(self.calls):
            self.state, out = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, out))
        return time.perf_counter() - start

    def peak_bytes(self) -> int:
        """Peak memory the compiler plans: arguments, outputs and temporaries, less what is donated."""
        stats = self.step.lower(self.state, self.batch).compile().memory_analysis()
        size = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
        return size - stats.alias_size_in_bytes


def sides(case: Case, steps_per_call: int = 1) -> tuple[Runner, Runner, Runner]:
    """jaxprop, by hand, and by hand once more for the noise."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    batch = case.batch
    if steps_per_call > 1:
        batch = {name: np.stack([x] * steps_per_call) for name, x in batch.items()}
    calls = max(1, case.steps // steps_per_call)

    def hand() -> Runner:
        params = jax.tree.map(jnp.copy, case.params)
        return Runner(by_hand(case, tx, steps_per_call), (params, tx.init(params), jnp.int32(0)), batch, calls)

    step = jaxprop.make_train_step(case.loss_fn, tx, steps_per_call=steps_per_call, health=False)
    state = jaxprop.init_state(case.params, tx, key=jax.random.key(0))
    return Runner(step, state, batch, calls), hand(), hand()


def compare(a: Runner, b: Runner, pairs: int) -> tuple[float, float, float, float, float]:
    """Median ratio a/b over ABBA quadruples with its quartiles, and both medians in seconds."""
    ratios, times_a, times_b = [], [], []
    for _ in range(pairs):
        a1, b1, b2, a2 = a.time(), b.time(), b.time(), a.time()
        ratios.append((a1 + a2) / (b1 + b2))
        times_a.append((a1 + a2) / 2)
        times_b.append((b1 + b2) / 2)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high, statistics.median(times_a), statistics.median(times_b)


def report(name: str, case: Case, pairs: int, steps_per_call: int = 1) -> None:
    """Prints one row of the table."""
    ours, hand, again = sides(case, steps_per_call)
    ratio, low, high, ours_s, hand_s = compare(ours, hand, pairs)
    noise, noise_low, noise_high, *_ = compare(again, hand, pairs)
    memory = ours.peak_bytes() / hand.peak_bytes()
    calls = ours.calls * steps_per_call
    print(
        f"| {name} | {hand_s / calls * 1e3:.3f} | {ours_s / calls * 1e3:.3f} | {ratio:.3f} ({low:.3f}-{high:.3f}) "
        f"| {noise:.3f} ({noise_low:.3f}-{noise_high:.3f}) | {memory:.3f} |",
        flush=True,
    )


def main() -> None:
    """Runs the chosen cases and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="ABBA quadruples a case")
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be repeated")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, optax {optax.__version__}, {device.device_kind}, {platform.machine()}\n")
    print("| step | by hand, ms | jaxprop, ms | ratio (quartiles) | A/A | peak memory ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.case or CASES:
        report(name, CASES[name](), args.pairs)
        if name.startswith("tiny"):
            report(f"{name}, steps_per_call 20", CASES[name](), args.pairs, steps_per_call=20)


if __name__ == "__main__":
    main()
