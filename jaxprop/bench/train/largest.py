"""The largest batch whose step fits into a device's memory, found from what the compiler plans."""

from __future__ import annotations

import gc
from collections.abc import Callable

import jax

from jaxprop import data
from jaxprop.bench.environment import memory_limit
from jaxprop.bench.rounds import explain
from jaxprop.bench.train.made import make, planned_bytes
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.data import Random
from jaxprop.errors import JaxpropError
from jaxprop.run.host import available_bytes

SPARE = 0.92  # share of the memory that is planned with; the rest is the allocator's and the libraries'
HOST_SHARE = 0.5  # of the host's free memory, which others use too
TRIES = 6
CLOSE = 0.02  # of the batch: the search ends so close to one that does not fit
LARGEST = 1 << 20


def find_largest(config: Config, device: jax.Device, say: Callable[[str], None] = lambda _: None) -> int:
    """Finds the largest batch that fits, to about two per cent.

    What the compiler plans for a step grows with its batch, but neither evenly nor from the start. So the search keeps
    a batch that fits and one that does not, and tries in between where a straight line says that the memory is full.
    The batch that it ends with has to take a step.

    Args:
      config: its batch size is where the search begins.
      device: whose memory is to be filled.
      say: takes a line about each try.

    Returns:
      A multiple of `run.accumulate` times the number of devices; no more than the examples there are.

    Raises:
      JaxpropError: not even the smallest batch fits, or the device does not say how much memory it has.
    """
    known = memory_limit(device)
    limit = SPARE * known if known else HOST_SHARE * (available_bytes() or 0)
    if not limit:
        raise JaxpropError("--batch auto: this device does not say how much memory it has; give a number instead")
    unit, most = _unit(config), _most(config)
    planned: dict[int, float] = {}

    def fits(batch: int) -> bool:
        say(f"planning a batch of {batch}")
        planned[batch] = _planned(config, batch)
        return planned[batch] <= limit

    low, high = _bracket(fits, planned, limit, unit, most, _rounded(config.data.batch_size, unit, most))
    if not low:
        raise JaxpropError(
            f"--batch auto: not even a batch of {unit} fits into {limit / 2**30:.1f} GiB: a step of it takes "
            f"{planned[unit] / 2**30:.1f} GiB"
        )
    for _ in range(TRIES):
        if high is None or high - low <= max(unit, CLOSE * low):
            break
        share = (limit - planned[low]) / (planned[high] - planned[low])
        # Not at the very ends, so that each try takes away a part of what is left.
        batch = _rounded(low + min(max(share, 0.1), 0.9) * (high - low), unit, most)
        if batch in (low, high):
            break
        low, high = (batch, high) if fits(batch) else (low, batch)
    while low and not _runs(config, low):
        say(f"a batch of {low} was planned to fit, but does not")
        low = _rounded(low * 0.9, unit, most) if low > unit else 0
    if not low:
        raise JaxpropError(f"--batch auto: not even a batch of {unit} runs on this device")
    return low


def _bracket(
    fits: Callable[[int], bool], planned: dict[int, float], limit: float, unit: int, most: int, batch: int
) -> tuple[int, int | None]:
    """A batch that fits (0 for none) and a larger one that does not (None where all do)."""
    if not fits(batch):
        while batch > unit:
            high, batch = batch, _rounded(batch / 4, unit, most)
            if fits(batch):
                return batch, high
        return 0, unit
    while batch < most:
        # As far as the memory of the last step per example would reach, and at most 8 times further.
        reach = min(8.0, max(2.0, limit / planned[batch]))
        low, batch = batch, _rounded(batch * reach, unit, most)
        if not fits(batch):
            return low, batch
    return batch, None


def _unit(config: Config) -> int:
    """What a batch has to be a multiple of: a microbatch is divided over the devices."""
    return config.run.accumulate * (config.parallel.devices or jax.local_device_count())


def _most(config: Config) -> int:
    """The largest batch that the data have examples for."""
    if config.data.name == "random":
        return LARGEST
    sources = data.open_sources(config.data, config.task.name)
    return max(_unit(config), sources["train"].length // _unit(config) * _unit(config))


def _rounded(batch: float, unit: int, most: int) -> int:
    return max(unit, min(int(batch), most) // unit * unit)


def with_batch(config: Config, batch: int) -> Config:
    """A configuration with another batch size; data of its own size grows with it.

    Example:
      >>> from jaxprop.bench.train.workloads import config_of
      >>> with_batch(config_of("mlp"), 4096).data.batch_size
      4096
    """
    changes: dict[str, int] = {"batch_size": batch}
    if isinstance(config.data, Random):
        changes["examples"] = max(config.data.examples, batch)
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def _planned(config: Config, batch: int) -> float:
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
