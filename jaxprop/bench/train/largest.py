"""The largest batch whose step fits into a device's memory, found from what the compiler plans."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import jax

from jaxprop.bench.environment import memory_limit
from jaxprop.bench.rounds import explain
from jaxprop.bench.train.made import make
from jaxprop.config.schema.config import Config
from jaxprop.errors import JaxpropError

SPARE = 0.92  # share of the memory that is planned with; the rest is the allocator's and the libraries'
HOST_SHARE = 0.5  # of the host's free memory, which others use too
TRIES = 6
LARGEST = 1 << 20


def find_largest(config: Config, device: jax.Device, say: Callable[[str], None] = lambda _: None) -> int:
    """Finds the largest batch that fits.

    The memory of a step grows with its batch as `a + b B`. Two compilations give a and b, a third one checks the batch
    that follows, and a step of it has to run.

    Args:
      config: its batch size is where the search begins.
      device: whose memory is to be filled.
      say: takes a line about each try.

    Returns:
      A multiple of 8, or of 1 below 8.

    Raises:
      JaxpropError: not even the smallest batch fits, or the device does not say how much memory it has.
    """
    known = memory_limit(device)
    limit = SPARE * known if known else HOST_SHARE * (available_bytes() or 0)
    if not limit:
        raise JaxpropError("--batch auto: this device does not say how much memory it has; give a number instead")
    smaller = max(1, config.data.batch_size // 2)
    low, high = _planned(config, smaller), _planned(config, 2 * smaller)
    slope = max((high - low) / smaller, 1.0)
    batch = _rounded((limit - low) / slope + smaller)
    for _ in range(TRIES):
        if batch < 1:
            break
        say(f"trying a batch of {batch}")
        planned = _planned(config, batch)
        if planned > limit:
            batch = min(_rounded(batch - (planned - limit) / slope), _rounded(batch * 0.95))
        elif _runs(config, batch):
            return batch
        else:
            batch = _rounded(batch * 0.9)
    raise JaxpropError(f"--batch auto: not even a batch of {max(batch, 1)} fits into {limit / 2**30:.1f} GiB")


def available_bytes() -> int | None:
    """Memory of the host that is free to be used, or None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(found[0]) * 1024 if found else None


def with_batch(config: Config, batch: int) -> Config:
    """A configuration with another batch size; data of its own size grows with it.

    Example:
      >>> from jaxprop.bench.train.workloads import config_of
      >>> with_batch(config_of("mlp"), 4096).data.batch_size
      4096
    """
    changes: dict[str, int] = {"batch_size": batch}
    if config.data.name == "random":
        changes["examples"] = max(config.data.examples, batch)
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def _rounded(batch: float) -> int:
    whole = int(min(batch, LARGEST))
    return whole // 8 * 8 if whole >= 8 else whole


def _planned(config: Config, batch: int) -> float:
    from jaxprop.bench.train.made import planned_bytes

    gc.collect()
    return planned_bytes(with_batch(config, batch))


def _runs(config: Config, batch: int) -> bool:
    gc.collect()
    try:
        make(with_batch(config, batch), twice=False)
    except Exception as error:
        if explain(error)[0] != "out_of_memory":
            raise
        return False
    return True
