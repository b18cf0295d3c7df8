"""In how many stretches of tokens a run makes the logits of its language model: in one, where they fit."""

from __future__ import annotations

import math
import os

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop.config.checks import makes_chunks
from jaxprop.config.schema.config import Config
from jaxprop.core.datasheet import sheet_of
from jaxprop.parallel.hosts import check_alike, process_count
from jaxprop.parallel.mesh import parts
from jaxprop.types import Source

WHOLE = 8  # logits are made whole up to this part of a device's memory: their gradient and the softmax are as large
CHUNK = 64  # and otherwise so that those of a stretch take at most this part of it
GIB = 2**30


def with_chunks(config: Config, train: Source, mesh: Mesh | None, memory: int | None = None) -> Config:
    """Returns the configuration with a number in the place of `run.vocabulary_chunks: auto`.

    Args:
      config: the configuration.
      train: the training split.
      mesh: the devices, or None for a single one.
      memory: bytes that one of them has for a run; default: as the devices of the mesh say.

    Raises:
      UsageError: the processes of a run, by the memory of their devices, would choose different numbers.
    """
    chosen = config.run.vocabulary_chunks
    if chosen == "auto":
        size = logits_bytes(config, train, mesh) if makes_chunks(config) is None else None
        chosen = 1 if size is None else chunks_for(size, memory or device_bytes(mesh))
        if process_count() > 1:
            check_alike("run.vocabulary_chunks", chosen)
    return config.model_copy(update={"run": config.run.model_copy(update={"vocabulary_chunks": chosen})})


def chunks_for(size: int, memory: int | None) -> int:
    """Returns the number of stretches for logits of a size, a power of two; 1 where they fit, or nothing is known.

    Args:
      size: bytes of all logits in float32 on a device.
      memory: bytes of the device in all, not those that happen to be free, so that a run takes the same steps again.

    Example:
      >>> [chunks_for(gib * GIB, 16 * GIB) for gib in (2, 3, 4, 9)]
      [1, 16, 16, 64]
    """
    if memory is None or size * WHOLE <= memory:
        return 1
    return 2 ** math.ceil(math.log2(size * CHUNK / memory))


def logits_bytes(config: Config, train: Source, mesh: Mesh | None) -> int | None:
    """Returns the bytes on each device of a microbatch's logits in float32; None where not every token has an answer.

    Args:
      config, train, mesh: as of `with_chunks`.
    """
    labels, vocabulary = train.take(np.zeros(1, np.int64)).get("labels"), train.info.get("vocabulary")
    if labels is None or np.ndim(labels) != 2 or vocabulary is None:
        return None
    split, tensor = (1, 1) if mesh is None else (parts(mesh), dict(mesh.shape).get("tensor", 1))
    rows = math.ceil(config.data.batch_size / config.run.accumulate / split)
    return 4 * rows * np.shape(labels)[1] * math.ceil(vocabulary / tensor)


def device_bytes(mesh: Mesh | None) -> int | None:
    """Returns the memory of a device in bytes: as JAX or its datasheet says; of a CPU its part of the machine's.

    Args:
      mesh: the devices, or None for the default one.
    """
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    if device.platform == "cpu":
        if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1 if mesh is None else mesh.size)
    stats, sheet = None, sheet_of(device)
    if device in jax.local_devices():  # a topology that is only compiled for has none
        stats = (device.memory_stats() or {}).get("bytes_limit")
    return stats or (int(sheet.memory * GIB) if sheet is not None and sheet.memory is not None else None)
