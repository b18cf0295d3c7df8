"""Time of attention and LSTM layers, forward and backward, in the forms that JAX has for the device.

    python scripts/bench_layers.py [--rounds N] [--seconds S] [--deadline S]

Each row is one layer at one size: the gradient of a sum of its outputs, weighted at random so that no work can be left
out. The forms are timed in turn, there and back, each long enough for `--seconds`; reported is the median time with its
quartiles, the rate of the layer's own products, and how far the gradient is from that of the first form in
float32. A form that the device does not have is reported as that.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import rnn

FEATURES = 80  # of an LSTM's inputs, as a speech model's


class Row(NamedTuple):
    """One layer at one size: its forms, their arguments, and the operations of its products, forward and backward."""

    name: str
    forms: dict[str, Callable[..., jax.Array]]
    arguments: tuple[jax.Array, ...]
    flops: float


def attention(batch: int, time_steps: int, heads: int, width: int, dtype: Any) -> Row:
    """Causal attention of `[B, T, H, D]`; half of the products count, as half are masked."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (batch, time_steps, heads, width), dtype) for key in keys)

    def plain(q, k, v):
        logits = jnp.einsum("bthd,bshd->bhts", q, k).astype(jnp.float32) / q.shape[-1] ** 0.5
        shares = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf), -1)
        return jnp.einsum("bhts,bshd->bthd", shares.astype(v.dtype), v)

    forms = {
        "by hand": plain,
        "xla": partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla"),
        "cudnn": partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn"),
    }
    flops = 3 * 2 * 2 * batch * heads * time_steps**2 * width / 2
    name = f"attention, {batch} x {time_steps}, {heads} heads of {width}, {jnp.dtype(dtype).name}"
    return Row(name, forms, (q, k, v), flops)


def lstm(batch: int, time_steps: int, width: int) -> Row:
    """One LSTM layer over `[B, T, 80]` in float32."""
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (batch, time_steps, FEATURES))
    weights = rnn.init_lstm_weight(keys[1], FEATURES, width, 1, False)
    lengths = jnp.full(batch, time_steps, jnp.int32)
    zero = jnp.zeros((1, batch, width))

    def scanned(inputs, weights):
        # The same weights as cuDNN packs them: input, forget, cell, output gates.
        split = rnn.unpack_lstm_weights(weights, FEATURES, width, 1, False)
        w, u, b, c = (x[0] for x in split)
        gates = jnp.swapaxes(inputs, 0, 1) @ w.T + b + c

        def turn(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x + h @ u.T, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jnp.swapaxes(jax.lax.scan(turn, (zero[0], zero[0]), gates)[1], 0, 1)

    def cudnn(inputs, weights):
        if jax.default_backend() != "gpu":
            raise NotImplementedError("cuDNN needs a GPU")
        return rnn.lstm(inputs, zero, zero, weights, lengths, FEATURES, width, 1, 0.0, False)[0]

    flops = 3 * 2 * batch * time_steps * 4 * width * (FEATURES + width)
    return Row(
        f"LSTM {width}, {batch} x {time_steps}, float32", {"scan": scanned, "cudnn": cudnn}, (inputs, weights), flops
    )


def rows(small: bool) -> list[partial[Row]]:
    """What is measured, the most telling first."""
    if small:
        return [partial(attention, 4, 256, 8, 32, jnp.float32), partial(lstm, 32, 100, 256)]
    return [
        partial(attention, 16, 1024, 12, 64, jnp.bfloat16),
        partial(lstm, 32, 100, 256),
        partial(attention, 4, 4096, 16, 128, jnp.bfloat16),
        partial(lstm, 128, 400, 1024),
        partial(attention, 32, 256, 8, 32, jnp.bfloat16),
        partial(attention, 16, 1024, 12, 64, jnp.float32),
    ]


def gradient(form: Callable[..., jax.Array], arguments: tuple[jax.Array, ...]) -> Callable:
    """Compiled gradient of the weighted sum of a form's outputs."""
    shape = jax.eval_shape(form, *arguments)
    weight = jax.random.normal(jax.random.key(1), shape.shape)

    def loss(weight: jax.Array, *arguments: jax.Array) -> jax.Array:
        return jnp.sum(form(*arguments).astype(jnp.float32) * weight)

    # As an argument: a constant of this size is folded while compiling, which takes seconds.
    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(1, 1 + len(arguments)))))
    return lambda *arguments: compiled(weight, *arguments)


def timing(function: Callable, arguments: tuple[jax.Array, ...], calls: int) -> float:
    """Seconds of one of so many calls."""
    start = time.perf_counter()
    for _ in range(calls):
        out = function(*arguments)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls


def distance(found: Any, expected: Any) -> float:
    """Relative distance of two gradients, in the norm of all their parts."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    wide = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs]
    return math.sqrt(sum(float(jnp.sum((a - b) ** 2)) for a, b in wide) / sum(float(jnp.sum(b**2)) for _, b in wide))


def report(row: Row, rounds: int, seconds: float) -> None:
    """Prints one line for every form of a layer."""
    exact = tuple(x.astype(jnp.float32) for x in row.arguments)
    expected = gradient(next(iter(row.forms.values())), exact)(*exact)
    ready: dict[str, Callable] = {}
    for name, form in row.forms.items():
        try:
            function = gradient(form, row.arguments)
            away = distance(function(*row.arguments), expected)
        except Exception as error:  # the device does not have it
            print(f"| {row.name} | {name} | {' '.join(str(error).split())[:80]} | | |", flush=True)
            continue
        ready[name] = function
        print(f"{row.name}, {name}: {away:.1e} from float32", flush=True)
    taken: dict[str, list[float]] = {name: [] for name in ready}
    calls = {
        name: max(1, math.ceil(seconds / min(timing(f, row.arguments, 3) for _ in range(3))))
        for name, f in ready.items()
    }
    for _ in range(rounds):
        for name in [*ready, *reversed(ready)]:
            taken[name].append(timing(ready[name], row.arguments, calls[name]))
    for name, found in taken.items():
        low, middle, high = (x * 1e3 for x in statistics.quantiles(found, n=4))
        rate = row.flops / middle / 1e9
        print(f"| {row.name} | {name} | {middle:.3f} ({low:.3f}-{high:.3f}) | {rate:.1f} |", flush=True)


def main() -> None:
    """Prints a Markdown table, its lines in the order in which they are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.05, help="how long one timing takes at least")
    parser.add_argument("--only", default="", help="only layers whose name contains this")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds after which no further row begins")
    args = parser.parse_args()
    start = time.monotonic()
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, {device.device_kind}\n\n| layer | form | ms | TFLOP/s |\n|---|---|---|---|")
    for make in rows(device.platform == "cpu"):
        if args.only in make.func.__name__ and time.monotonic() - start < args.deadline:
            report(make(), args.rounds, args.seconds)


if __name__ == "__main__":
    main()
