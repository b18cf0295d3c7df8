"""The processes of a run: how many, which one this is, and what they agree on."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # as Orbax does: the key-value store has no public name

from jaxprop.errors import JaxpropError

AGREE_SECONDS = 600.0  # one process may compose a large data set while the others wait for what it decides
_SLICE_MS = 500  # of waiting, after which Python may act on a signal

_asked: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def process_count() -> int:
    """Returns the number of processes that run together; unlike `jax.process_count`, touches no device.

    Example:
      >>> process_count()
      1
    """
    return int(distributed.global_state.num_processes) if jax.distributed.is_initialized() else 1


def process_index() -> int:
    """Returns which of the processes this is; unlike `jax.process_index`, touches no device.

    Example:
      >>> process_index()
      0
    """
    return int(distributed.global_state.process_id) if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is process 0, which alone writes records and decides.

    Example:
      >>> is_first()
      True
    """
    return process_index() == 0


def agree(name: str, value: Any = None, seconds: float = AGREE_SECONDS) -> Any:
    """Returns process 0's value on every process; the others wait for it.

    Every process must call it with the same names in the same order. No device is touched.

    Args:
      name: what is agreed on; it may be used again.
      value: anything that JSON holds; of process 0, the others' is ignored.
      seconds: to wait for process 0.

    Returns:
      What process 0 has given.

    Raises:
      JaxpropError: process 0 has given nothing in time.

    Example:
      >>> agree("steps", 100)
      100
    """
    if process_count() == 1:
        return value
    client: Any = distributed.global_state.client
    key = f"jaxprop/agree/{name}/{next(_asked[name])}"
    if is_first():
        client.key_value_set(key, json.dumps(value))
        return value
    deadline = time.monotonic() + seconds
    while True:
        try:
            return json.loads(client.blocking_key_value_get(key, _SLICE_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if time.monotonic() > deadline:
            raise JaxpropError(
                f"process 0 has not decided on {name!r} in {seconds:.0f} s; look at what it printed last"
            )
