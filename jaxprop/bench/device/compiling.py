"""How long a reference program takes to compile, with an empty persistent cache and with a filled one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from jaxprop.bench.rounds import Job, Prepared

LAYERS, WIDTH, TOKENS = 4, 64, 128
CACHING = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def jobs(device: jax.Device) -> Iterator[Job]:
    """Compiling for one device: the gradient of four residual layers with attention.

    Args:
      device: to be compiled for.

    Yields:
      The reference program without a cache, and with one that holds it.
    """
    for name, warm in (("reference, cold", False), ("reference, warm", True)):
        yield Job(
            "compile", name, "s", partial(_prepare, warm, device), better="lower", device=device,
            facts={"layers": LAYERS, "warm": warm},
        )  # fmt: skip


def _loss(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for p in params:
        q, k, v = jnp.split(jnp.tanh(x) @ p["qkv"], 3, -1)
        x = x + jax.nn.softmax(q @ k.T / WIDTH**0.5) @ v
        x = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
    return jnp.mean(x**2)


def _compile(device: jax.Device) -> Any:
    at = jax.sharding.SingleDeviceSharding(device)
    shapes = {"qkv": (WIDTH, 3 * WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=at) for name, shape in shapes.items()}
    x = jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.float32, sharding=at)

    def fresh(params: list[dict[str, jax.Array]], x: jax.Array) -> Any:  # a new function, so that it is traced anew
        return jax.value_and_grad(_loss)(params, x)

    return jax.jit(fresh).lower([layer] * LAYERS, x).compile()


@contextlib.contextmanager
def cache_in(folder: str | None) -> Iterator[None]:
    """Compiles with the persistent cache in a folder, or without one, until the block ends.

    Args:
      folder: an existing one, or None.
    """
    wanted = CACHING | {"jax_compilation_cache_dir": folder, "jax_enable_compilation_cache": folder is not None}
    before = {name: getattr(jax.config, name) for name in wanted}
    _configure(wanted)
    try:
        yield
    finally:
        _configure(before)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _prepare(warm: bool, device: jax.Device) -> Prepared:
    folder = tempfile.mkdtemp(prefix="jaxprop-bench-") if warm else None

    def call(_: int) -> Any:
        with cache_in(folder):
            compiled.append(_compile(device))
        return ()

    def check(_: Any) -> str:
        found = (compiled[-1].cost_analysis() or {}).get("flops", 1.0)
        return "" if found else "the compiled program does nothing"

    compiled: list[Any] = []
    if warm:
        call(0)
        weakref.finalize(call, shutil.rmtree, folder, ignore_errors=True)
    return Prepared(call, check)
