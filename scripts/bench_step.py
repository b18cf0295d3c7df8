"""Cost of the jaxprop train step against gradient and optimizer by hand, over one grid of models and sizes.

    python scripts/bench_step.py [--rounds N] [--case NAME ...] [--side NAME ...] [--seconds S] [--compile N]

Both sides share the loss, AdamW and the data, and live in one process; by hand there are no norms and no guard. A round
takes by hand, by hand again (the A/A pair), `health=False`, a step as most are (gradient norms of every layer) and one
that measures everything, in this order and back. Reported is the median over rounds of the ratio to by hand, with its
quartiles. "As it comes" weighs the last two as a run of 200 steps with the library's defaults takes them. Beside it
stand the peak memory that the compiler plans, to that of by hand, and with `--compile` the time from the first call to
the end of the second, with empty caches. `cpu` figures are CPU seconds of the process: they hardly change with the
machine's load.

The step guards its update with a branch on CPU and with a select elsewhere. The sides `branch` and `select` are the
step as most are, made with one of these forms whatever the device is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from jaxprop.health import Signals

TX = optax.adamw(1e-4)
STEPS = 200  # of the run that "as it comes" stands for


class Case(NamedTuple):
    """One workload: a loss, its parameters and a batch, and how many steps one timing takes."""

    loss_fn: Callable
    params: Any
    batch: dict[str, np.ndarray]
    steps: int


def _dense(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape), jnp.float32)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def mlp(batch_size: int, sizes: list[int], steps: int) -> Case:
    """Multi-layer perceptron with random inputs and labels; random, so that nothing decays to denormals."""
    rng = np.random.default_rng(0)
    params = {
        f"dense_{i}": {"kernel": _dense(rng, n, m), "bias": jnp.zeros(m, jnp.float32)}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }

    def loss_fn(params, batch, _key):
        x = batch["inputs"]
        for i in range(len(sizes) - 1):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
            x = jax.nn.relu(x) if i < len(sizes) - 2 else x
        return _cross_entropy(x, batch["labels"])

    batch = {
        "inputs": rng.normal(size=(batch_size, sizes[0])).astype(np.float32),
        "labels": rng.integers(0, sizes[-1], batch_size).astype(np.int32),
    }
    return Case(loss_fn, params, batch, steps)


def _conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def cnn(batch_size: int, steps: int) -> Case:
    """Three convolutions 32, 64, 128 on images of 32 x 32, pooled between, and a dense layer."""
    rng = np.random.default_rng(0)
    widths = [3, 32, 64, 128]
    params = {f"conv_{i}": {"kernel": _dense(rng, 3, 3, n, m)} for i, (n, m) in enumerate(itertools.pairwise(widths))}
    params["head"] = {"kernel": _dense(rng, 4 * 4 * 128, 10), "bias": jnp.zeros(10, jnp.float32)}

    def loss_fn(params, batch, _key):
        x = batch["inputs"]
        for i in range(3):
            x = jax.nn.relu(_conv(x, params[f"conv_{i}"]["kernel"]))
            x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
        return _cross_entropy(
            x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"], batch["labels"]
        )

    batch = {
        "inputs": rng.normal(size=(batch_size, 32, 32, 3)).astype(np.float32),
        "labels": rng.integers(0, 10, batch_size).astype(np.int32),
    }
    return Case(loss_fn, params, batch, steps)


def resnet(batch_size: int, steps: int, blocks: int = 33) -> Case:
    """Residual blocks of two convolutions with scale and shift, about 200 leaves, on images of 16 x 16."""
    rng = np.random.default_rng(0)
    width = 32
    params = {"stem": {"kernel": _dense(rng, 3, 3, 3, width)}}
    for i in range(blocks):
        params[f"block_{i}"] = {
            name: {"kernel": _dense(rng, 3, 3, width, width) * 0.1, "scale": jnp.ones(width), "shift": jnp.zeros(width)}
            for name in ("a", "b")
        }
    params["head"] = {"kernel": _dense(rng, width, 10)}

    def layer(x, p):
        x = _conv(x, p["kernel"])
        x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
        return x * p["scale"] + p["shift"]

    def loss_fn(params, batch, _key):
        x = _conv(batch["inputs"], params["stem"]["kernel"])
        for i in range(blocks):
            block = params[f"block_{i}"]
            x = x + layer(jax.nn.relu(layer(x, block["a"])), block["b"])
        return _cross_entropy(x.mean((1, 2)) @ params["head"]["kernel"], batch["labels"])

    batch = {
        "inputs": rng.normal(size=(batch_size, 16, 16, 3)).astype(np.float32),
        "labels": rng.integers(0, 10, batch_size).astype(np.int32),
    }
    return Case(loss_fn, params, batch, steps)


def lstm(batch_size: int, length: int, steps: int, width: int = 256) -> Case:
    """One LSTM layer over a sequence of 80 features, scanned, classified at its end."""
    rng = np.random.default_rng(0)
    params = {
        "cell": {"w": _dense(rng, 80, 4 * width), "u": _dense(rng, width, 4 * width), "b": jnp.zeros(4 * width)},
        "head": {"kernel": _dense(rng, width, 10)},
    }

    def loss_fn(params, batch, _key):
        cell = params["cell"]
        inputs = jnp.swapaxes(batch["inputs"] @ cell["w"] + cell["b"], 0, 1)

        def turn(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x + h @ cell["u"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros((batch["inputs"].shape[0], width))
        (h, _), _ = jax.lax.scan(turn, (zero, zero), inputs)
        return _cross_entropy(h @ params["head"]["kernel"], batch["labels"])

    batch = {
        "inputs": rng.normal(size=(batch_size, length, 80)).astype(np.float32),
        "labels": rng.integers(0, 10, batch_size).astype(np.int32),
    }
    return Case(loss_fn, params, batch, steps)


def language_model(
    tokens: int, steps: int, *, vocabulary: int = 1280, length: int = 256, layers: int = 6, width: int = 256,
    heads: int = 8, dtype: Any = jnp.float32, attention: str | None = None,
) -> Case:  # fmt: skip
    """Decoder-only transformer on random tokens; `dtype` is what it computes in, parameters are float32."""
    rng = np.random.default_rng(0)
    params = {"embed": {"w": _dense(rng, vocabulary, width)}}
    for i in range(layers):
        params[f"block_{i}"] = {
            "qkv": {"w": _dense(rng, width, 3 * width)}, "out": {"w": _dense(rng, width, width)},
            "up": {"w": _dense(rng, width, 4 * width)}, "down": {"w": _dense(rng, 4 * width, width)},
            "norm": {"a": jnp.ones(width), "b": jnp.ones(width)},
        }  # fmt: skip

    def norm(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale

    def loss_fn(params, batch, _key):
        params = jax.tree.map(lambda p: p.astype(dtype), params)
        x = params["embed"]["w"][batch["inputs"]]
        b, t, _ = x.shape
        for i in range(layers):
            p = params[f"block_{i}"]
            q, k, v = jnp.split((norm(x, p["norm"]["a"]) @ p["qkv"]["w"]).reshape(b, t, heads, -1), 3, -1)
            mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=attention)
            x = x + mixed.reshape(b, t, -1) @ p["out"]["w"]
            x = x + jax.nn.gelu(norm(x, p["norm"]["b"]) @ p["up"]["w"]) @ p["down"]["w"]
        return _cross_entropy((x @ params["embed"]["w"].T).astype(jnp.float32), batch["labels"])

    data = rng.integers(0, vocabulary, (tokens // length, length + 1)).astype(np.int32)
    return Case(loss_fn, params, {"inputs": data[:, :-1], "labels": data[:, 1:]}, steps)


def gpt2(batch_size: int, attention: str) -> Case:
    """A transformer of the sizes of GPT-2 small, 124M parameters, computing in bfloat16 on texts of 1,024 tokens."""
    return language_model(
        1024 * batch_size, 1, vocabulary=50304, length=1024, layers=12, width=768, heads=12, dtype=jnp.bfloat16,
        attention=attention,
    )  # fmt: skip


WIDE = [1024] * 7
CASES: dict[str, Callable[[], Case]] = {
    "MLP 6 x 1024, batch 64": lambda: mlp(64, WIDE, 8),
    "MLP 6 x 1024, batch 256": lambda: mlp(256, WIDE, 4),
    "MLP 6 x 1024, batch 2048": lambda: mlp(2048, WIDE, 1),
    "CNN 32-64-128, batch 64": lambda: cnn(64, 2),
    "LM 5M, 1,024 tokens": lambda: language_model(1024, 1),
    "LM 5M, 4,096 tokens": lambda: language_model(4096, 1),
    "LSTM 256, 100 steps, batch 32": lambda: lstm(32, 100, 2),
    "ResNet-like, 200 leaves, batch 16": lambda: resnet(16, 1),
    "tiny MLP, batch 64": lambda: mlp(64, [64, 128, 128, 10], 200),
}
ON_REQUEST: dict[str, Callable[[], Case]] = {  # for an accelerator
    "MLP 6 x 4096, batch 8192": lambda: mlp(8192, [4096] * 7, 4),
    "CNN 32-64-128, batch 1024": lambda: cnn(1024, 4),
    "LM 5M, 65,536 tokens": lambda: language_model(65536, 4),
    "LSTM 256, 100 steps, batch 512": lambda: lstm(512, 100, 4),
    "ResNet-like, 200 leaves, batch 256": lambda: resnet(256, 4),
    "GPT-2 124M, bfloat16, 16 x 1024, cuDNN attention": lambda: gpt2(16, "cudnn"),
    "GPT-2 124M, bfloat16, 16 x 1024, XLA attention": lambda: gpt2(16, "xla"),
}


def by_hand(case: Case, steps_per_call: int = 1) -> Callable:
    """The step as one would write it with optax: gradient, update, apply; donated."""

    def step(carry, batch):
        params, opt_state, count = carry
        key = jax.random.fold_in(jax.random.key(0), count)
        loss, grads = jax.value_and_grad(case.loss_fn)(params, batch, key)
        updates, opt_state = TX.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, count + 1), loss

    body = step if steps_per_call == 1 else lambda carry, batches: jax.lax.scan(step, carry, batches)
    return jax.jit(body, donate_argnums=0)


class Runner:
    """One side of a comparison: its compiled step, its state, and a timing of several calls."""

    def __init__(self, step: Callable, lower: Callable, state: Any, batch: Any, calls: int):
        self.step, self.lower, self.state, self.batch, self.calls = step, lower, state, batch, calls
        self.time()  # compiles

    def time(self) -> tuple[float, float]:
        """Wall and CPU seconds of the calls, until the whole state is ready."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.calls):
            self.state, out = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, out))
        return time.perf_counter() - wall, time.process_time() - cpu

    def peak_bytes(self) -> int:
        """Peak memory the compiler plans: arguments, outputs and temporaries, less what is donated."""
        stats = self.lower(self.state, self.batch).compile().memory_analysis()
        size = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
        return size - stats.alias_size_in_bytes


@contextlib.contextmanager
def guard(form: str | None) -> Iterator[None]:
    """Traces what depends on the platform as on CPU (`branch`) or as on an accelerator (`select`); None: as it is."""
    chosen = jax.lax.platform_dependent

    def choose(*args: Any, default: Callable, **by_platform: Callable) -> Any:
        return (by_platform.get("cpu", default) if form == "branch" else default)(*args)

    jax.lax.platform_dependent = chosen if form is None else choose
    try:
        yield
    finally:
        jax.lax.platform_dependent = chosen


def sides(case: Case, steps_per_call: int, wanted: list[str]) -> dict[str, Runner]:
    """By hand twice, and the wanted variants of the step."""
    batch = case.batch
    if steps_per_call > 1:
        batch = {name: np.stack([x] * steps_per_call) for name, x in batch.items()}
    batch = jax.device_put(batch) if jax.default_backend() != "cpu" else batch
    calls = max(1, case.steps // steps_per_call)
    step_by_hand = by_hand(case, steps_per_call)

    def hand() -> Runner:
        params = jax.tree.map(jnp.copy, case.params)
        return Runner(step_by_hand, step_by_hand.lower, (params, TX.init(params), jnp.int32(0)), batch, calls)

    def ours(health: bool, detail: str, form: str | None = None) -> Runner:
        step = jaxprop.make_train_step(case.loss_fn, TX, steps_per_call=steps_per_call, health=health)
        with guard(form):
            return Runner(
                lambda state, batch: step(state, batch, detail), lambda state, batch: step.lower(state, batch, detail),
                step.init(case.params, key=jax.random.key(0)), batch, calls,
            )  # fmt: skip

    variants = {
        "lean": lambda: ours(False, "lean"), "rows": lambda: ours(True, "rows"), "full": lambda: ours(True, "full"),
        "branch": lambda: ours(True, "rows", "branch"), "select": lambda: ours(True, "rows", "select"),
    }  # fmt: skip
    return {"hand": hand(), "again": hand(), **{side: variants[side]() for side in wanted}}


def calibrate(runners: dict[str, Runner], seconds: float) -> None:
    """Sets the calls of a timing, the same for all sides, so that by hand it takes at least that long."""
    hand = runners["hand"]
    taken = min(hand.time()[0] for _ in range(3)) / hand.calls
    for runner in runners.values():
        runner.calls = max(1, math.ceil(seconds / taken))


def rounds(runners: dict[str, Runner], count: int) -> Iterator[dict[str, tuple[float, float]]]:
    """Yields for each round the wall and CPU seconds of every side, there and back."""
    names = list(runners)
    for _ in range(count):
        found = dict.fromkeys(names, (0.0, 0.0))
        for name in [*names, *reversed(names)]:
            wall, cpu = runners[name].time()
            found[name] = found[name][0] + wall / 2, found[name][1] + cpu / 2
        yield found


def as_it_comes(seconds: dict[str, float], steps_per_call: int) -> float:
    """Seconds of a timing as a run of 200 steps has them on average: most with rows, the rare ones with everything."""
    calls = STEPS // steps_per_call
    details = [Signals().detail(i * steps_per_call + 1, (i + 1) * steps_per_call) for i in range(calls)]
    rare = sum(detail in ("full", "flush") for detail in details)
    return ((calls - rare) * seconds["rows"] + rare * seconds["full"]) / calls


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


COLUMNS = {
    "lean": "health=False", "rows": "as most steps are", "comes": "as it comes", "full": "a record of everything",
    "branch": "guard by branch", "select": "guard by select", "again": "A/A",
}  # fmt: skip


def report(name: str, case: Case, options: argparse.Namespace, steps_per_call: int = 1) -> None:
    """Prints one row of the table for wall time, and one for CPU time."""
    runners = sides(case, steps_per_call, options.side)
    if options.seconds:
        calibrate(runners, options.seconds)
    found = list(rounds(runners, options.rounds))
    peaks = {side: runner.peak_bytes() / runners["hand"].peak_bytes() for side, runner in runners.items()}
    steps = runners["hand"].calls * steps_per_call
    for kind, label in ((0, ""), (1, ", cpu")):
        seconds = [{side: times[kind] for side, times in one.items()} for one in found]
        ratios = {side: [one[side] / one["hand"] for one in seconds] for side in runners}
        if {"rows", "full"} <= runners.keys():
            ratios["comes"] = [as_it_comes(one, steps_per_call) / one["hand"] for one in seconds]
            del ratios["rows"]
        hand = statistics.median(one["hand"] for one in seconds) / steps * 1e3
        columns = " | ".join(_spread(ratios[side]) for side in COLUMNS if side in ratios)
        memory = ", ".join(f"{peaks[side]:.2f}" for side in options.side)
        print(f"| {name}{label} | {hand:.3f} | {columns} | {memory} |", flush=True)


def compile_seconds(case: Case, health: bool | None) -> float:
    """Seconds from the first call to the end of the second, with empty caches; None is by hand."""
    jax.clear_caches()
    params = jax.tree.map(jnp.copy, case.params)
    if health is None:
        step, state = by_hand(case), (params, TX.init(params), jnp.int32(0))
    else:
        step = jaxprop.make_train_step(case.loss_fn, TX, health=health)
        state = step.init(params, key=jax.random.key(0))
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(2):
        state, out = step(state, case.batch)
        jax.block_until_ready((state, out))
    return time.perf_counter() - start


def report_compile(name: str, case: Case, count: int) -> None:
    """Prints one row of the table of compile times."""
    found = [[compile_seconds(case, health) for health in (None, False, True)] for _ in range(count)]
    hand = statistics.median(row[0] for row in found)
    lean, usual = ([row[i] / row[0] for row in found] for i in (1, 2))
    print(f"| {name} | {hand:.2f} | {statistics.median(lean):.2f} | {statistics.median(usual):.2f} |", flush=True)


def main() -> None:
    """Runs the chosen cases and prints Markdown tables."""
    cases = CASES | ON_REQUEST
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="rounds a case")
    parser.add_argument("--case", action="append", choices=[*cases], help="only this case; may be repeated")
    parser.add_argument("--side", action="append", choices=["lean", "rows", "full", "branch", "select"])
    parser.add_argument("--seconds", type=float, help="how long one timing takes at least; default: a few steps")
    parser.add_argument("--compile", type=int, default=0, metavar="N", help="measure compile time N times instead")
    args = parser.parse_args()
    args.side = args.side or ["lean", "rows", "full"]
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, optax {optax.__version__}, {device.device_kind}, {platform.machine()}\n")
    if args.compile:
        print("| step | by hand, s | health=False | as it comes |\n|---|---|---|---|")
        for name in args.case or CASES:
            report_compile(name, cases[name](), args.compile)
        return
    shown = {*args.side, "again"}
    if {"rows", "full"} <= shown:
        shown = shown - {"rows"} | {"comes"}
    titles = [title for side, title in COLUMNS.items() if side in shown]
    print(f"| step | by hand, ms | {' | '.join(titles)} | peak memory: {', '.join(args.side)} |")
    print("|---" * (len(titles) + 3) + "|")
    for name in args.case or CASES:
        report(name, cases[name](), args)
        if name.startswith("tiny"):
            report(f"{name}, steps_per_call 20", cases[name](), args, steps_per_call=20)


if __name__ == "__main__":
    main()
