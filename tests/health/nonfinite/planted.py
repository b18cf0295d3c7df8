"""Losses with a planted fault each: where it stands is marked by a comment `# planted: NAME` on its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTH, BATCH, DEPTH = 4, 8, 5


class Fault(NamedTuple):
    """A loss, the figures it fails at, and what is to be found."""

    loss: Callable[..., Any]
    phase: str
    primitive: str
    layer: str | None
    examples: tuple[int, ...] | None = None
    batch: dict[str, Any] | None = None
    params: dict[str, Any] | None = None


def line_of(name):
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"# planted: {name}")]
    return number


def make_params(scale=0.3):
    rng = np.random.default_rng(0)

    def dense(*shape):
        return {"w": jnp.asarray(scale * rng.normal(size=shape), jnp.float32), "b": jnp.zeros(shape[-1])}

    stack = [dense(WIDTH, WIDTH) for _ in range(DEPTH)]
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stack)
    return {"first": dense(WIDTH, WIDTH), "second": dense(WIDTH, WIDTH), "blocks": blocks, "head": dense(WIDTH, 3)}


def make_batch():
    rng = np.random.default_rng(1)
    return {
        "x": jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32),
        "t": jnp.asarray(rng.normal(size=(BATCH, 6, WIDTH)), jnp.float32),
        "y": jnp.asarray(rng.integers(0, 3, BATCH), jnp.int32),
    }


def with_rows(name, rows, value):
    batch = make_batch()
    return batch | {name: batch[name].at[jnp.asarray(rows)].set(value)}


def dense(layer, x):
    return x @ layer["w"] + layer["b"]


def first(params, batch):
    return jnp.tanh(dense(params["first"], batch["x"]))


def head(params, h, batch):
    logits = dense(params["head"], h)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


# -- forward ------------------------------------------------------------------------------------


def log_of_zero(params, batch, key):
    h = jnp.maximum(dense(params["first"], batch["x"]), 0.0)
    h = jnp.tanh(dense(params["second"], h))
    return head(params, jnp.log(h - h[:, :1]), batch)  # planted: log_of_zero


def sqrt_of_negative(params, batch, key):
    h = dense(params["first"], batch["x"])
    h = jnp.sqrt(h)  # planted: sqrt_of_negative
    return head(params, dense(params["second"], h), batch)


def zero_over_zero(params, batch, key):
    h = jax.nn.relu(dense(params["first"], batch["x"]))
    total = jnp.sum(h, -1, keepdims=True)
    return head(params, jnp.tanh(h / total), batch)  # planted: zero_over_zero


def exp_overflow(params, batch, key):
    h = dense(params["second"], first(params, batch))
    h = jnp.exp(200.0 * h + 90.0)  # planted: exp_overflow
    return head(params, h, batch)


def stacked_scan(params, batch, key):
    def block(h, row):
        layer, i = row
        h = jnp.tanh(dense(layer, h))
        h = jnp.log(jnp.where(i == 3, 0.0, 1.0) + 0.0 * h) + h  # planted: stacked_scan
        return h, None

    h, _ = jax.lax.scan(block, first(params, batch), (params["blocks"], jnp.arange(DEPTH)))
    return head(params, h, batch)


def time_scan(params, batch, key):
    def cell(h, x):
        h = jnp.tanh(dense(params["second"], h) + x)
        return h + 0.01 * jnp.arccos(1.0 + jnp.abs(h)), h  # planted: time_scan

    h, _ = jax.lax.scan(cell, first(params, batch), jnp.swapaxes(batch["t"], 0, 1))
    return head(params, h, batch)


def in_remat(params, batch, key):
    @jax.checkpoint
    def block(layer, h):
        h = dense(layer, h)
        return jnp.log1p(h - 1.0 - jnp.max(h))  # planted: in_remat

    return head(params, block(params["second"], first(params, batch)), batch)


def in_while(params, batch, key):
    """Newton's iteration for a root, from a start where the derivative vanishes."""
    h = first(params, batch)
    target = jax.lax.stop_gradient(dense(params["second"], h))

    def improve(carry):
        i, x = carry
        return i + 1, x - (x**2 - target) / (2.0 * x * jnp.where(i == 2, 0.0, 1.0))  # planted: in_while

    _, root = jax.lax.while_loop(lambda carry: carry[0] < 5, improve, (0, jnp.ones_like(target)))
    return head(params, h + root, batch)


def in_cond(params, batch, key):
    h = first(params, batch)

    def normal(h):
        return h * jax.lax.rsqrt(jnp.sum(jnp.maximum(h, 0.0) * 0.0, -1, keepdims=True))  # planted: in_cond

    return head(params, jax.lax.cond(jnp.sum(h) < 1e9, normal, jnp.sin, h), batch)


@jax.jit
def _fractional(h):
    return h**0.4  # planted: in_jit


def in_jit(params, batch, key):
    return head(params, _fractional(dense(params["second"], first(params, batch))), batch)


def masked_row(params, batch, key):
    """A softmax over a row in which everything is masked: the infinities are meant, the NaN is not."""
    h = first(params, batch)
    scores = jnp.where(batch["x"] > -50.0, h @ h.T[:, :WIDTH], -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)  # planted: masked_row
    return head(params, weights, batch)


def dot_overflow(params, batch, key):
    h = 1e25 * first(params, batch)
    h = h @ (1e25 * params["second"]["w"])  # planted: dot_overflow
    return head(params, jnp.tanh(h), batch) + 0.0 * jnp.sum(h)


def custom_forward(params, batch, key):
    @jax.custom_jvp
    def entropy(p):
        return -p * jnp.log(p)  # planted: custom_forward

    entropy.defjvp(lambda primals, tangents: (entropy(primals[0]), -(1 + jnp.log(primals[0])) * tangents[0]))
    p = jax.nn.relu(dense(params["second"], first(params, batch)))
    return head(params, entropy(p), batch)


def half_precision(params, batch, key):
    h = first(params, batch).astype(jnp.float16) * jnp.float16(300)
    square = h * h  # planted: half_precision
    return head(params, jnp.tanh(square.astype(jnp.float32)) + jnp.sum(square, dtype=jnp.float32) * 0, batch)


# -- backward -----------------------------------------------------------------------------------


def zero_column(h):
    """Squares, exactly zero in the first column."""
    return (h - h[:, :1]) ** 2


def sqrt_at_zero(params, batch, key):
    h = zero_column(dense(params["second"], first(params, batch)))
    return head(params, jnp.sqrt(h), batch)  # planted: sqrt_at_zero


def norm_at_zero(params, batch, key):
    h = dense(params["second"], jax.nn.relu(batch["x"]))
    length = jnp.linalg.norm(h - h[:1], axis=-1, keepdims=True)  # planted: norm_at_zero
    return head(params, h + length, batch)


def where_log(params, batch, key):
    h = zero_column(dense(params["second"], first(params, batch)))
    return head(params, jnp.where(h > 0, jnp.log(h), 0.0), batch)  # planted: where_log


def power_at_zero(params, batch, key):
    h = zero_column(dense(params["second"], first(params, batch)))
    return head(params, h**0.4, batch)  # planted: power_at_zero


def custom_backward(params, batch, key):
    @jax.custom_vjp
    def scaled(h):
        return h * 2.0

    def backward(h, g):
        return (g * 2.0 / jnp.where(h > 10.0, 1.0, 0.0),)  # planted: custom_backward

    scaled.defvjp(lambda h: (scaled(h), h), backward)
    return head(params, scaled(dense(params["second"], first(params, batch))), batch)


def remat_backward(params, batch, key):
    @jax.checkpoint
    def block(layer, h):
        h = zero_column(dense(layer, h))
        return jnp.sqrt(h)  # planted: remat_backward

    return head(params, block(params["second"], first(params, batch)), batch)


def scan_backward(params, batch, key):
    def block(h, row):
        layer, i = row
        h = jnp.tanh(dense(layer, h))
        return jnp.sqrt((h - jnp.where(i == 2, h, 0.0)) ** 2), None  # planted: scan_backward

    h, _ = jax.lax.scan(block, first(params, batch), (params["blocks"], jnp.arange(DEPTH)))
    return head(params, h, batch)


def exploding_scan(params, batch, key):
    """Bounded on the way forward; on the way back each turn multiplies by a billion."""

    def cell(h, x):
        return jnp.sin(1e9 * dense(params["second"], h) + x), None  # planted: exploding_scan

    h, _ = jax.lax.scan(cell, first(params, batch), jnp.swapaxes(batch["t"], 0, 1))
    return head(params, h, batch)


def while_backward(params, batch, key):
    """A fixed point whose own backward pass iterates as well, and divides by zero in its third turn."""

    @jax.custom_vjp
    def settle(h):
        return jax.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, h))[1]

    def backward(h, g):
        def improve(carry):
            i, g = carry
            return i + 1, g / (jnp.where(i == 2, 0.0, 1.0) * (1 + h**2))  # planted: while_backward

        return (jax.lax.while_loop(lambda carry: carry[0] < 4, improve, (0, g))[1],)

    settle.defvjp(lambda h: (settle(h), h), backward)
    return head(params, settle(dense(params["second"], first(params, batch))), batch)


def angle_at_zero(params, batch, key):
    h = zero_column(dense(params["second"], first(params, batch)))
    return head(params, jnp.arctan2(h, h), batch)  # planted: angle_at_zero


FAULTS = {
    "log_of_zero": Fault(log_of_zero, "forward", "log", "second"),
    "sqrt_of_negative": Fault(sqrt_of_negative, "forward", "sqrt", "first"),
    "zero_over_zero": Fault(zero_over_zero, "forward", "div", "first", (2, 5), with_rows("x", [2, 5], 0.0)),
    "exp_overflow": Fault(exp_overflow, "forward", "exp", "second"),
    "stacked_scan": Fault(stacked_scan, "forward", "log", "blocks[3]"),
    "time_scan": Fault(time_scan, "forward", "acos", "second"),
    "in_remat": Fault(in_remat, "forward", "log1p", "second"),
    "in_while": Fault(in_while, "forward", "div", "second"),
    "in_cond": Fault(in_cond, "forward", "rsqrt", "first"),
    "in_jit": Fault(in_jit, "forward", "pow", "second"),
    "masked_row": Fault(masked_row, "forward", "sub", "first", (3,), with_rows("x", [3], -100.0)),
    "dot_overflow": Fault(dot_overflow, "forward", "dot_general", "second"),
    "custom_forward": Fault(custom_forward, "forward", "log", "second"),
    "half_precision": Fault(half_precision, "forward", "mul", "first"),
    "sqrt_at_zero": Fault(sqrt_at_zero, "backward", "div", "second"),
    "norm_at_zero": Fault(norm_at_zero, "backward", "div", "second"),
    "where_log": Fault(where_log, "backward", "div", "second"),
    "power_at_zero": Fault(power_at_zero, "backward", "pow", "second"),
    "custom_backward": Fault(custom_backward, "backward", "div", "second"),
    "remat_backward": Fault(remat_backward, "backward", "div", "second"),
    "scan_backward": Fault(scan_backward, "backward", "div", "blocks[2]"),
    "exploding_scan": Fault(exploding_scan, "backward", "mul", "second"),
    "while_backward": Fault(while_backward, "backward", "div", "second"),
    "angle_at_zero": Fault(angle_at_zero, "backward", "div", "second"),
}


# -- what is not finite on the way, and reaches nothing -------------------------------------------


def masked_nan(params, batch, key):
    h = dense(params["second"], first(params, batch))
    safe = jnp.where(h > 0, h, 1.0)
    return head(params, jnp.where(h > 0, jnp.log(safe), jnp.nan_to_num(jax.lax.stop_gradient(jnp.log(h)))), batch)


def masked_scores(params, batch, key):
    h = first(params, batch)
    scores = jnp.where(jnp.arange(BATCH)[None] <= jnp.arange(BATCH)[:, None], h @ h.T, -jnp.inf)
    return head(params, jax.nn.softmax(scores) @ h, batch)


def unused_nan(params, batch, key):
    h = first(params, batch)
    jnp.log(h - h)
    return head(params, h, batch), {"noted": jnp.sum(jnp.log(-jnp.abs(h)))}


BENIGN = {"masked_nan": masked_nan, "masked_scores": masked_scores, "unused_nan": unused_nan}
