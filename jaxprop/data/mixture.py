"""Mixtures: batches of several sources by weights that may change by step, resumable at the exact next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.drawn import Drawn
from jaxprop.data.order import permutation
from jaxprop.data.stream import gather, is_count
from jaxprop.errors import DataError
from jaxprop.types import Source

_IDENTITY = ("seed", "batch_size", "lengths", "shuffle", "fingerprint")
_SHARE, _SLOTS, _SOURCE = 0, 1, 2  # what random numbers are drawn for


class Phase(NamedTuple):
    """The weights from a step on.

    Args:
      after: number of steps after which they hold.
      weights: of the sources; they need not add up to 1.
    """

    after: int
    weights: tuple[float, ...]


def shares(seed: int, step: int, batch_size: int, weights: Sequence[float]) -> np.ndarray:
    """Returns how many examples of a step's batch come from each source.

    With cumulative shares `c_k = B (w_1 + ... + w_k) / sum(w)` and one number `u` in 0..1 drawn for the step, it is

        n_k = floor(c_k + u) - floor(c_(k-1) + u)

    so that the numbers add up to B, each is within 1 of `B w_k / sum(w)`, and equal to it in the mean.

    Args:
      seed: non-negative integer.
      step: the step's number.
      batch_size: B.
      weights: w, not all zero.

    Returns:
      int64 `[K]`.

    Example:
      >>> shares(0, 7, 10, [1.0, 3.0]).tolist()
      [2, 8]

    Reference:
      Systematic sampling: Madow & Madow, "On the theory of systematic sampling", 1944.
    """
    raw = np.random.PCG64(np.random.SeedSequence((seed, _SHARE, step))).random_raw()
    drawn = (raw >> 11) * 2.0**-53
    ends = np.cumsum(np.asarray(weights, np.float64))
    ends = batch_size * ends / ends[-1]
    ends[-1] = batch_size  # exactly, so that the numbers add up
    bounds = np.floor(np.concatenate([[0.0], ends]) + drawn).astype(np.int64)
    return np.diff(bounds)


class MixtureStream:
    """An endless iterator of batches from several sources, each in its own epochs.

    Which source an example of a step comes from depends on the seed, the step and the weights; which example it is
    depends on how many of that source were drawn before. So a position is a handful of numbers, and the weights may be
    changed in between.

    Args:
      source: the examples of all sources, one after another.
      lengths: number of examples of each source.
      phases: the weights by step; the first is after 0.
      batch_size: B.
      seed: non-negative integer.
      shuffle: whether each epoch of a source has a new random order.
      rows: which rows of each batch are read, of those that another process does not; by default all.

    Example:
      >>> source = Source(6, lambda i: {"inputs": i}, {}, "")
      >>> stream = MixtureStream(source, (4, 2), [Phase(0, (1.0, 1.0))], batch_size=4, seed=0, shuffle=False)
      >>> [sorted(next(stream)["inputs"].tolist()) for _ in range(2)]
      [[0, 1, 4, 5], [2, 3, 4, 5]]
    """

    def __init__(
        self,
        source: Source,
        lengths: Sequence[int],
        phases: Sequence[Phase],
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        rows: np.ndarray | None = None,
    ):
        self._source, self._lengths, self._read = source, tuple(lengths), rows
        self._phases, self._batch_size, self._seed, self._shuffle = tuple(phases), batch_size, seed, shuffle
        self.batches_per_epoch = -(-source.length // batch_size)  # a name for as many batches; sources have their own
        self._step = 0
        self._drawn = np.zeros(len(lengths), np.int64)
        self._ahead = (0, 0, self._drawn)  # the step, how far ahead of it, and what is drawn by then
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def epoch(self) -> int:
        """How many times as many examples were drawn as there are in all."""
        return self._step // self.batches_per_epoch

    @property
    def position(self) -> int:
        """The number of batches since."""
        return self._step % self.batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self.ahead(0)
        self.skip()
        return batch

    def ahead(self, count: int) -> dict[str, np.ndarray]:
        """Returns the batch that comes after the next `count` ones; the position stays."""
        step, known, drawn = self._ahead
        if step != self._step or known > count:
            known, drawn = 0, self._drawn
        for passed in range(known, count):
            drawn = drawn + self._shares(self._step + passed)
        self._ahead = (self._step, count, drawn)
        rows = self._rows(self._step + count, drawn)
        return gather(self._source, rows, self._batch_size, self._read)

    def drawn(self, state: Mapping[str, Any], back: int) -> Drawn:
        """Returns which examples a batch was made of: their indices among those of all sources.

        Args:
          state: a position, as `state()` returns it.
          back: how many batches before it; 1 is the last one before it.
        """
        step, before = state["step"] - back, np.array(state["drawn"], np.int64)
        for passed in range(step, state["step"]):
            before = before - self._shares(passed)
        epoch, batch = divmod(step, self.batches_per_epoch)
        return Drawn(epoch, batch, self._rows(step, before), self._source.names)

    def skip(self) -> None:
        """Goes on to the next batch without reading this one."""
        self._drawn = self._drawn + self._shares(self._step)
        self._step += 1

    def _shares(self, step: int) -> np.ndarray:
        weights = next(phase.weights for phase in reversed(self._phases) if phase.after <= step)
        return shares(self._seed, step, self._batch_size, weights)

    def _rows(self, step: int, drawn: np.ndarray) -> np.ndarray:
        """The examples of a step, in an order in which the sources are mixed."""
        offsets = np.cumsum([0, *self._lengths])
        parts = [
            offsets[k] + self._examples(k, int(drawn[k]) + np.arange(number))
            for k, number in enumerate(self._shares(step).tolist())
            if number
        ]
        rows = np.concatenate(parts)
        return rows[permutation(len(rows), self._seed, _SLOTS, step)]

    def _examples(self, k: int, numbers: np.ndarray) -> np.ndarray:
        """The examples of a source that are drawn after so many others of it, each in the order of its epoch."""
        epochs, positions = np.divmod(numbers, self._lengths[k])
        if not self._shuffle:
            return positions
        return np.concatenate(
            [self._order(k, epoch)[positions[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        )

    def _order(self, k: int, epoch: int) -> np.ndarray:
        known = self._orders.get(k)
        if known is None or known[0] != epoch:
            known = (epoch, permutation(self._lengths[k], self._seed, _SOURCE, k, epoch))
            self._orders[k] = known
        return known[1]

    def state(self) -> dict[str, Any]:
        """Returns the position of the stream and what identifies it, as JSON values; the weights are no part of it."""
        return {"step": self._step, "drawn": self._drawn.tolist(), **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Moves the stream to a saved position, so that it continues with the same next batch, or with other weights.

        Args:
          state: the value returned by `state()`, possibly in another process.

        Raises:
          DataError: the state is damaged, or belongs to another seed, batch size, order or data set.
        """
        here = self._identity()
        missing = [name for name in ("step", "drawn", *_IDENTITY) if name not in state]
        if missing:
            raise DataError(f"the saved state of the data stream has no {', '.join(missing)}; start over with --fresh")
        changed = [f"{n} is {here[n]!r}, saved {state[n]!r}" for n in _IDENTITY if here[n] != state[n]]
        if changed:
            raise DataError(
                f"the data stream is not the saved one: {'; '.join(changed)}; "
                "resume with the saved settings and data, or start over with --fresh"
            )
        step, drawn = state["step"], state["drawn"]
        fits = isinstance(drawn, list) and len(drawn) == len(self._lengths) and all(map(is_count, drawn))
        if not (is_count(step) and fits and sum(drawn) == step * self._batch_size):
            raise DataError("the saved state of the data stream is damaged; start over with --fresh")
        self._step, self._drawn = step, np.array(drawn, np.int64)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "lengths": list(self._lengths),
            "shuffle": self._shuffle,
            "fingerprint": self._source.fingerprint,
        }
