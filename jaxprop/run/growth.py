"""A batch that grows in the course of a run: how many of the stream's batches a step takes.

A step of k batches accumulates its gradient over k times as many microbatches as before, so that its memory stays what
it was; each k has a compiled program of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxprop.config.schema.growth import GrowByNoise, GrowBySteps
from jaxprop.config.schema.run import Run
from jaxprop.core.measurements import Measurements

SMOOTH = 0.9  # decay of the moving sums whose ratio is the noise scale, as in the report
FEWEST = 5  # records before a single estimate counts little


class Growth:
    """How many of the stream's batches each step takes.

    Args:
      run: the section `run`.
      batch_size: of the stream's batches.

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, 2018. https://arxiv.org/abs/1812.06162
    """

    def __init__(self, run: Run, batch_size: int | None):
        self._section, self._batch_size = getattr(run, "grow_batch", None), batch_size
        self._factor = 1
        self._trace = self._signal = 0.0
        self._records = 0

    @property
    def grows(self) -> bool:
        """Whether a step may take more than one batch."""
        return self._section is not None

    def factor(self, step: int) -> int:
        """Returns how many batches the step after `step` steps takes, as far as is decided."""
        return self._section.factor(step) if isinstance(self._section, GrowBySteps) else self._factor

    def sizes(self, step: int, total: int) -> Iterator[int]:
        """Yields how many batches each step takes, from a step on, as far as is decided."""
        return (self.factor(taken) for taken in range(step, total))

    def is_due(self, step: int) -> bool:
        """Whether it is decided after a step if the batch grows, for which all records have to be read."""
        return isinstance(self._section, GrowByNoise) and step % self._section.every_steps == 0

    def read(self, m: Measurements) -> None:
        """Takes in the record of a step, on the host."""
        if not isinstance(self._section, GrowByNoise) or m.rare is None:
            return
        trace, signal = float(m.rare.noise_trace), float(m.rare.noise_signal)
        if math.isfinite(trace) and math.isfinite(signal):
            self._trace, self._signal = SMOOTH * self._trace + trace, SMOOTH * self._signal + signal
            self._records += 1

    def decide(self, step: int) -> str | None:
        """Decides whether the batch grows after a step; returns what a person is told of it, or None."""
        if not self.is_due(step):
            return None
        assert isinstance(self._section, GrowByNoise)
        assert self._batch_size is not None
        size, noise = self._factor * self._batch_size, self._noise_scale()
        if noise is None or noise < self._section.ratio * size or 2 * self._factor > self._section.largest:
            return None
        self._factor *= 2
        return f"step {step}: the batch grows from {size} to {2 * size} examples; the noise scale is {noise:.3g}"

    def _noise_scale(self) -> float | None:
        """tr(S) / |G|^2 in examples; infinite where the gradient is lost in its noise, None where it is not known."""
        if self._records < FEWEST or self._trace <= 0:
            return None
        return self._trace / self._signal if self._signal > 0 else math.inf

    def told(self, step: int) -> dict[str, int]:
        """Returns what a step's record says of its batch: nothing where that does not grow."""
        if not self.grows or self._batch_size is None:
            return {}
        return {"batch_size": self._batch_size * self.factor(step - 1)}

    def state(self) -> dict[str, Any] | None:
        """Returns what a resumed run has to know, as JSON values; None where all of it follows from the step."""
        if not isinstance(self._section, GrowByNoise):
            return None
        return {"factor": self._factor, "trace": self._trace, "signal": self._signal, "records": self._records}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a state."""
        if isinstance(self._section, GrowByNoise) and state is not None:
            self._factor, self._records = state["factor"], state["records"]
            self._trace, self._signal = state["trace"], state["signal"]


def joined(place: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that makes one batch of several that are stacked, and places it.

    Example:
      >>> import numpy as np
      >>> joined(lambda batch: batch["x"].shape)({"x": np.ones((2, 3, 5))})
      (6, 5)
    """
    return lambda stacked: place(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked))
