"""Measurements that are still on the device, read a call late so that nobody waits for a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import jax

from jaxprop.core.measurements import Measurements


class Unread:
    """The measurements of the newest calls, in order, until they are read.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout, unread = Layout((), ()), Unread()
      >>> unread.add(4, Measurements(np.zeros((4, layout.length), np.float32), layout))  # one call of 4 steps
      >>> unread.add(5, Measurements(np.zeros(layout.length, np.float32), layout))
      >>> [step for step, _ in unread.read(keep=1)], [step for step, _ in unread.read(keep=0)]
      ([1, 2, 3, 4], [5])
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[int, Measurements]] = deque()

    def add(self, step: int, measurements: Measurements) -> None:
        """Takes in what a call has measured; `step` is the last one it took."""
        if isinstance(measurements.packed, jax.Array):
            measurements.packed.copy_to_host_async()
        self._calls.append((step, measurements))

    def read(self, keep: int) -> Iterator[tuple[int, Measurements]]:
        """Yields steps and their records, on the host, of all but the newest `keep` calls."""
        while len(self._calls) > keep:
            last, measurements = self._calls.popleft()
            host = measurements.host()
            records = [host] if host.packed.ndim == 1 else [host.at(i) for i in range(len(host.packed))]
            yield from enumerate(records, last - len(records) + 1)
