"""What the processes of one run must agree on before they save or restore; with one process there is nothing to ask."""

from __future__ import annotations

import secrets

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process is the one that writes manifests and moves folders."""
    return jax.process_index() == 0


def of_first(value: int) -> int:
    """Returns the value that process 0 has; to be called by all processes."""
    if jax.process_count() == 1:
        return value
    words = np.array([value >> 32, value & 0xFFFFFFFF], np.int64).astype(np.uint32)  # 64 bits are not enabled
    high, low = (int(word) for word in multihost_utils.broadcast_one_to_all(words))
    return (high - 2**32 if high >= 2**31 else high) * 2**32 + low


def all_of(holds: bool) -> bool:
    """Returns whether something holds in every process; to be called by all processes."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.array(holds))))


def shared_token() -> str:
    """Returns a text that nobody can foresee and that is the same in all processes; to be called by all of them."""
    return f"{of_first(secrets.randbits(62)):016x}"
