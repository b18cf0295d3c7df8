"""What a call of a compiled program costs the host, whatever the program does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.bench.rounds import Job, Prepared

LEAVES = 100  # arrays of a middle-sized state


def jobs(device: jax.Device) -> Iterator[Job]:
    """Calls of one device.

    Args:
      device: to be measured.

    Yields:
      A call that is waited for, calls that follow each other, and such calls with many arrays.
    """
    for name, leaves, waits in (
        ("call and wait", 1, True), ("call", 1, False), (f"call with {LEAVES} arrays, donated", LEAVES, False),
    ):  # fmt: skip
        yield Job(
            "dispatch", name, "us", partial(_prepare, leaves, waits, device), better="lower", per_call=1e6,
            device=device, facts={"arrays": leaves, "waits": waits},
        )  # fmt: skip


@partial(jax.jit, donate_argnums=0)
def _increment(state: list[jax.Array]) -> list[jax.Array]:
    return [x + 1 for x in state]


def _prepare(leaves: int, waits: bool, device: jax.Device) -> Prepared:
    state = [jax.device_put(jnp.float32(i), device) for i in range(leaves)]
    calls = 0

    def call(_: int) -> Any:
        nonlocal state, calls
        state, calls = _increment(state), calls + 1
        return jax.block_until_ready(state[-1]) if waits else state[-1]

    def check(found: jax.Array) -> str:
        return "" if float(found) == leaves - 1 + calls else f"{calls} calls have added {float(found) - leaves + 1}"

    return Prepared(call, check)
