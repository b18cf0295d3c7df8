"""Time of layers, forward and backward: the plain form of each, and those that jaxprop takes in its place.

    python scripts/bench_layers.py [--rounds N] [--seconds S] [--deadline S]

Each row is one layer at one size: the gradient of a sum of its outputs, weighted at random so that no work can be left
out. The forms are timed in turn, there and back, each long enough for `--seconds`; reported is the median time with its
quartiles, the time of the first form over it in the same turn, and how far its gradient is from that of the first form
in float32. A form that the device does not have is reported as that. `jaxprop doctor` shows the gains that were found.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import rnn

from jaxprop.core.compiler import fast_options
from jaxprop.models.attention import attention_in_stretches
from jaxprop.models.layers import dense, max_pool, max_pool_3x3
from jaxprop.models.lstm import Weights
from jaxprop.models.lstm import lstm as lstm_in_columns
from jaxprop.models.recurrence import CELLS, Tapped, recur

FEATURES = 80  # of an LSTM's inputs, as a speech model's


class Row(NamedTuple):
    """One layer at one size.

    Args:
      name: that the table shows.
      forms: the first is the plain one.
      arguments: of all of them.
      flops: operations of its products, forward and backward; 0 for none.
      options: of the compiler, for the forms that have any.
    """

    name: str
    forms: dict[str, Callable[..., jax.Array]]
    arguments: tuple[jax.Array, ...]
    flops: float = 0.0
    options: Mapping[str, dict[str, Any]] = MappingProxyType({})


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
        "in stretches": attention_in_stretches,
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


def recurrence(cell: str, batch: int, time_steps: int, width: int) -> Row:
    """The loop of a recurrent layer, its kernel's gradient added up in each step or as one product at the end."""
    of, keys = CELLS[cell], jax.random.split(jax.random.key(0), 2)
    kernel = jax.random.normal(keys[0], (width, of.gates * width)) / width**0.5
    inputs = jax.random.normal(keys[1], (time_steps, batch, of.gates * width))
    carry = (jnp.zeros((batch, width)),) * of.carries

    def plain(kernel, inputs):
        def turn(carry, x):
            carry = of.step(carry, x, lambda h: h @ kernel, jnp.tanh)
            return carry, carry[0]

        return jax.lax.scan(turn, carry, inputs)[1]

    def one_product(kernel, inputs):
        return recur(of, jnp.tanh, kernel, None, inputs, carry, tapped=Tapped("", ""))[1]

    flops = 3 * 2 * batch * time_steps * width * of.gates * width
    forms = {"in each step": plain, "one product": one_product}
    return Row(f"{cell} {width}, {batch} x {time_steps}", forms, (kernel, inputs), flops)


def lstm_layer(batch: int, time_steps: int, width: int, n_in: int = FEATURES) -> Row:
    """One LSTM layer with its inputs' projections, by three loops over time."""
    keys = jax.random.split(jax.random.key(0), 3)
    kernels = tuple(jax.random.normal(k, (n, 4 * width)) / n**0.5 for k, n in zip(keys, (n_in, width), strict=False))
    inputs, carry = jax.random.normal(keys[2], (time_steps, batch, n_in)), (jnp.zeros((batch, width)),) * 2
    arguments = (*kernels, jnp.zeros(4 * width), inputs)

    def plain(w, u, b, x):
        of = CELLS["lstm"]

        def turn(carry, x):
            carry = of.step(carry, x, lambda h: h @ u, jnp.tanh)
            return carry, carry[0]

        return jax.lax.scan(turn, carry, x @ w + b)[1]

    def one_product(w, u, b, x):
        return recur(CELLS["lstm"], jnp.tanh, u, None, x @ w + b, carry, tapped=Tapped("", ""))[1]

    def columns(w, u, b, x):
        return lstm_in_columns(False, Weights(w, u, b), x, carry)[1]

    flops = 3 * 2 * batch * time_steps * (n_in + width) * 4 * width
    forms = {"in each step": plain, "one product": one_product, "columns": columns}
    return Row(f"LSTM layer {n_in} to {width}, {batch} x {time_steps}", forms, arguments, flops)


def convolution(batch: int, side: int, n_in: int, n_out: int, stride: int = 1) -> Row:
    """A convolution of 3 x 3 with the library that XLA takes for it on a CPU, and with Eigen's."""
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (batch, side, side, n_in))
    kernel = jax.random.normal(keys[1], (3, 3, n_in, n_out)) / (9 * n_in) ** 0.5

    def plain(inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )  # fmt: skip

    flops = 3 * 2 * batch * (side // stride) ** 2 * 9 * n_in * n_out
    name = f"convolution 3 x 3, {n_in} to {n_out}, {batch} x {side} x {side}" + (", stride 2" if stride == 2 else "")
    return Row(name, {"as XLA comes": plain, "Eigen": plain}, (inputs, kernel), flops, {"Eigen": fast_options()})


def dense_layer(batch: int, time_steps: int, n_in: int, n_out: int) -> Row:
    """A dense layer over `[B, T, D]`."""
    layer = dense(n_in, n_out, jax.nn.initializers.normal(0.02), rngs=nnx.Rngs(0))
    inputs, kernel = jax.random.normal(jax.random.key(0), (batch, time_steps, n_in)), layer.kernel[...]
    forms = {
        "[B, T, D]": lambda x, w: jax.lax.dot_general(x, w, (((2,), (0,)), ((), ()))),
        "[N, D]": lambda x, w: layer.dot_general(x, w, (((2,), (0,)), ((), ()))),
    }
    flops = 3 * 2 * batch * time_steps * n_in * n_out
    return Row(f"dense {n_in} to {n_out}, {batch} x {time_steps}", forms, (inputs, kernel), flops)


def pooling(size: int, batch: int, side: int, channels: int) -> Row:
    """Max pooling of stride 2 with windows of so many pixels."""
    inputs = jax.random.normal(jax.random.key(0), (batch, side, side, channels))

    def plain(x):
        window, padding = (1, size, size, 1), "VALID" if size == 2 else ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), padding)

    forms = {"reduce_window": plain, "pairs": max_pool if size == 2 else max_pool_3x3}
    return Row(f"max pooling {size} x {size}, {batch} x {side} x {side} x {channels}", forms, (inputs,))


def depthwise(batch: int, time_steps: int, width: int, kernel: int) -> Row:
    """A depthwise convolution over time, as a conformer has it."""
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (batch, time_steps, width))
    weights = jax.random.normal(keys[1], (kernel, width)) / kernel**0.5

    def plain(x, w):
        return jax.lax.conv_general_dilated(
            x, w[:, None], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=width
        )  # fmt: skip

    def shifts(x, w):
        padded = jnp.pad(x, ((0, 0), (kernel // 2, kernel // 2), (0, 0)))
        return sum((padded[:, i : i + time_steps] * w[i] for i in range(kernel)), jnp.zeros_like(x))

    name = f"depthwise {kernel} over {width}, {batch} x {time_steps}"
    return Row(name, {"grouped convolution": plain, "shifts": shifts}, (inputs, weights))


def rows(small: bool) -> list[partial[Row]]:
    """What is measured, the most telling first."""
    if small:
        sizes = [(64, 32, 3, 32), (64, 32, 16, 16), (64, 16, 32, 64), (32, 32, 64, 64), (16, 8, 256, 256)]
        return [
            *[partial(convolution, *size) for size in sizes],
            *[partial(convolution, *size, stride=2) for size in sizes[1:4]],
            *[partial(recurrence, cell, 32, 100, 256) for cell in CELLS],
            *[partial(recurrence, cell, 16, 200, 512) for cell in CELLS],
            *[
                partial(lstm_layer, *size)
                for size in [(32, 100, 256), (16, 200, 512, 512), (8, 50, 64), (64, 128, 128)]
            ],
            *[partial(dense_layer, *size) for size in [(16, 128, 256, 1024), (8, 256, 384, 1536), (32, 100, 256, 29)]],
            *[partial(pooling, size, 64, 32, 32) for size in (2, 3)],
            *[partial(depthwise, *size) for size in [(16, 200, 144, 15), (16, 400, 256, 31)]],
            *[
                partial(attention, *size, jnp.float32)
                for size in [(16, 128, 4, 64), (8, 256, 6, 64), (2, 1024, 12, 64)]
            ],
            partial(lstm, 32, 100, 256),
        ]
    return [
        partial(attention, 16, 1024, 12, 64, jnp.bfloat16),
        partial(lstm, 32, 100, 256),
        partial(attention, 4, 4096, 16, 128, jnp.bfloat16),
        partial(lstm, 128, 400, 1024),
        partial(attention, 32, 256, 8, 32, jnp.bfloat16),
        partial(attention, 16, 1024, 12, 64, jnp.float32),
    ]


def gradient(
    form: Callable[..., jax.Array], arguments: tuple[jax.Array, ...], options: dict[str, Any] | None = None
) -> Callable:
    """Compiled gradient of the weighted sum of a form's outputs."""
    shape = jax.eval_shape(form, *arguments)
    weight = jax.random.normal(jax.random.key(1), shape.shape)

    def loss(weight: jax.Array, *arguments: jax.Array) -> jax.Array:
        return jnp.sum(form(*arguments).astype(jnp.float32) * weight)

    # As an argument: a constant of this size is folded while compiling, which takes seconds.
    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(1, 1 + len(arguments)))), compiler_options=options)
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
    away: dict[str, float] = {}
    for name, form in row.forms.items():
        try:
            function = gradient(form, row.arguments, row.options.get(name))
            away[name] = distance(function(*row.arguments), expected)
        except Exception as error:  # the device does not have it
            print(f"| {row.name} | {name} | {' '.join(str(error).split())[:80]} | | | |", flush=True)
            continue
        ready[name] = function
    taken: dict[str, list[float]] = {name: [] for name in ready}
    calls = {
        name: max(1, math.ceil(seconds / min(timing(f, row.arguments, 3) for _ in range(3))))
        for name, f in ready.items()
    }
    for _ in range(rounds):
        for name in [*ready, *reversed(ready)]:
            taken[name].append(timing(ready[name], row.arguments, calls[name]))
    first = next(iter(ready))
    for name, found in taken.items():
        low, middle, high = (x * 1e3 for x in statistics.quantiles(found, n=4))
        gains = [plain / own for plain, own in zip(taken[first], found, strict=True)]
        gain = "1" if name == first else "{1:.2f} ({0:.2f}-{2:.2f})".format(*statistics.quantiles(gains, n=4))
        rate = f"{row.flops / middle / 1e9:.3f}" if row.flops else ""
        line = f"| {row.name} | {name} | {middle:.3f} ({low:.3f}-{high:.3f}) | {gain} | {rate} | {away[name]:.0e} |"
        print(line, flush=True)


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
    print(f"jax {jax.__version__}, {device.device_kind}\n")
    print("| layer | form | ms | gain | TFLOP/s | gradient from float32's |\n|---|---|---|---|---|---|")
    for make in rows(device.platform == "cpu"):
        if args.only in make.func.__name__ and time.monotonic() - start < args.deadline:
            report(make(), args.rounds, args.seconds)


if __name__ == "__main__":
    main()
