"""Cost of the train step on a TPU that is not there: compiled ahead of time for one v5e chip, and read off the program.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python scripts/aot_step.py [--topology v5e:2x2] [--examples 8]

Needs `pip install 'jax[tpu]'`, and no TPU. The model is a decoder-only transformer of 6 layers and 30M parameters in
bfloat16 with AdamW. Reported for each variant of the step are the bytes that its program reads and writes, to those of
gradient and optimizer by hand, the peak memory that the compiler plans, and the loops and branches that are left.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprop

TX = optax.adamw(1e-4)
WIDTH, LAYERS, HEADS, VOCABULARY, LENGTH = 512, 6, 8, 16384, 512


def shapes(examples: int) -> tuple[Any, Any]:
    """Parameters, and a batch of sequences of 512 tokens, as shapes."""

    def leaf(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    block = {
        "qkv": {"w": leaf(WIDTH, 3 * WIDTH)}, "out": {"w": leaf(WIDTH, WIDTH)},
        "norm": {"a": leaf(WIDTH), "b": leaf(WIDTH)},
        "up": {"w": leaf(WIDTH, 4 * WIDTH)}, "down": {"w": leaf(4 * WIDTH, WIDTH)},
    }  # fmt: skip
    params = {"embed": {"w": leaf(VOCABULARY, WIDTH)}, **{f"block_{i}": block for i in range(LAYERS)}}
    tokens = jax.ShapeDtypeStruct((examples, LENGTH), jnp.int32)
    return params, {"inputs": tokens, "labels": tokens}


def loss_fn(params: Any, batch: Any, _key: Any) -> jax.Array:
    """Mean cross-entropy of the next token, computed in the dtype of the parameters."""

    def norm(x, scale):
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale

    x = params["embed"]["w"][batch["inputs"]]
    b, t, _ = x.shape
    for i in range(LAYERS):
        p = params[f"block_{i}"]
        q, k, v = jnp.split((norm(x, p["norm"]["a"]) @ p["qkv"]["w"]).reshape(b, t, HEADS, -1), 3, -1)
        x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(b, t, -1) @ p["out"]["w"]
        x = x + jax.nn.gelu(norm(x, p["norm"]["b"]) @ p["up"]["w"]) @ p["down"]["w"]
    logits = (x @ params["embed"]["w"].T).astype(jnp.float32)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]))


def by_hand(carry: Any, batch: Any) -> Any:
    """Gradient in bfloat16 and AdamW in float32, as one would write them."""
    params, opt_state, count = carry
    key = jax.random.fold_in(jax.random.key(0), count)

    def computed(params):
        return loss_fn(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), batch, key)

    loss, grads = jax.value_and_grad(computed)(params)
    updates, opt_state = TX.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, count + 1), loss


def compiled(function: Callable, state: Any, batch: Any, mesh: Mesh) -> Any:
    """The program for one chip, and the seconds it took to compile."""
    where = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), (state, batch))
    start = time.perf_counter()
    program = jax.jit(function, donate_argnums=0).lower(*placed).compile()
    return program, time.perf_counter() - start


def main() -> None:
    """Compiles every variant and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="whose first chip the program is compiled for")
    parser.add_argument("--examples", type=int, default=8, help="sequences of 512 tokens in a batch")
    args = parser.parse_args()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    mesh = Mesh(devices[:1], ("data",))
    params, batch = shapes(args.examples)
    hand = jax.eval_shape(lambda p: (p, TX.init(p), jnp.int32(0)), params)

    def ours(health: bool, detail: str) -> tuple[Callable, Any]:
        step = jaxprop.make_train_step(loss_fn, TX, precision="bfloat16", health=health)
        state = jax.eval_shape(lambda p: step.init(p, key=jax.random.key(0)), params)
        return (lambda state, batch: step(state, batch, detail)), state

    variants = {
        "by hand": (by_hand, hand),
        "health=False": ours(False, "lean"),
        "a step as most are": ours(True, "rows"),
    }
    variants["a record of everything"] = ours(True, "full")
    print("| step | bytes accessed, GB | to by hand | peak memory, GB | to by hand | loops, branches | compile, s |")
    print("|---|---|---|---|---|---|---|")
    first = None
    for name, (function, state) in variants.items():
        program, seconds = compiled(function, state, batch, mesh)
        costs, memory = program.cost_analysis(), program.memory_analysis()
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        peak -= memory.alias_size_in_bytes
        accessed = costs["bytes accessed"]
        first = first or (accessed, peak)
        control = [len(re.findall(rf" {word}\(", program.as_text())) for word in ("while", "conditional")]
        print(
            f"| {name} | {accessed / 1e9:.2f} | {accessed / first[0]:.3f} | {peak / 1e9:.3f} | {peak / first[1]:.3f} "
            f"| {control[0]}, {control[1]} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
