"""Streams: seeded, epoch-aware, resumable batches of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxprop.data.drawn import Drawn
from jaxprop.data.order import permutation
from jaxprop.errors import DataError
from jaxprop.types import Source

# A saved position stands for the same examples only if none of these has changed.
_IDENTITY = ("seed", "batch_size", "length", "shuffle", "drop_last", "fingerprint")


class Stream:
    """An endless iterator of batches that can be resumed at the exact next batch.

    The order of an epoch depends only on the seed and the epoch's number, so that a position is two small
    numbers. Every example occurs once in an epoch. The last partial batch is padded by repeating its own
    examples with weight 0, so that all batches have the same shape.

    Of a source with buckets, batches are formed of examples of similar length and cut to the bucket that holds them,
    and then come in random order. Without shuffling there are no buckets.

    Args:
      source: the examples.
      batch_size: B, number of examples in a batch.
      seed: non-negative integer.
      shuffle: whether each epoch has a new random order; otherwise the examples come in their own order.
      drop_last: whether the last partial batch of an epoch is dropped instead of padded.
      start: number of batches to skip; it may exceed an epoch.
      rows: which rows of each batch are read, of those that another process does not; by default all.

    Raises:
      DataError: `drop_last` leaves no batch.

    Example:
      >>> x = np.arange(5, dtype=np.float32)
      >>> stream = Stream(Source(5, lambda i: {"inputs": x[i]}, {}, ""), batch_size=2, seed=0, shuffle=False)
      >>> [next(stream)["inputs"].tolist() for _ in range(4)]
      [[0.0, 1.0], [2.0, 3.0], [4.0, 4.0], [0.0, 1.0]]
      >>> stream.epoch, stream.position, stream.batches_per_epoch
      (1, 1, 3)
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        start: int = 0,
        rows: np.ndarray | None = None,
    ):
        self.batches_per_epoch = source.length // batch_size if drop_last else -(-source.length // batch_size)
        if self.batches_per_epoch == 0:
            raise DataError(
                f"a batch of {batch_size} is larger than the {source.length} examples, and with drop_last no batch "
                f"is left; set data.batch_size to at most {source.length}, or data.drop_last: false"
            )
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._rows = rows
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._order_of: tuple[int, np.ndarray] | None = None  # the newest epoch, and its order
        self._buckets = source.buckets if shuffle else None
        self.epoch, self.position = divmod(start, self.batches_per_epoch)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self.ahead(0)
        self.skip()
        return batch

    def ahead(self, count: int) -> dict[str, np.ndarray]:
        """Returns the batch that comes after the next `count` ones; the position stays.

        Example:
          >>> stream = Stream(Source(5, lambda i: {"inputs": i}, {}, ""), batch_size=2, seed=0, shuffle=False)
          >>> stream.ahead(1)["inputs"].tolist(), next(stream)["inputs"].tolist()
          ([2, 3], [0, 1])
        """
        indices = self._indices(*self._place(self.epoch, self.position, count))
        batch = gather(self._source, indices, self._batch_size, self._rows)
        if self._buckets is None:
            return batch
        return self._buckets.cut(batch, self._buckets.sizes[self._buckets.of()[indices].max()])

    def drawn(self, state: Mapping[str, Any], back: int) -> Drawn:
        """Returns which examples a batch was made of.

        Args:
          state: a position, as `state()` returns it.
          back: how many batches before it; 1 is the last one before it.

        Example:
          >>> stream = Stream(Source(5, lambda i: {"inputs": i}, {}, ""), batch_size=2, seed=0, shuffle=False)
          >>> _ = next(stream), next(stream), next(stream)
          >>> stream.drawn(stream.state(), back=1).examples.tolist()
          [4, 4]
        """
        epoch, position = self._place(state["epoch"], state["position"], -back)
        return Drawn(epoch, position, padded(self._indices(epoch, position), self._batch_size), self._source.names)

    def _place(self, epoch: int, position: int, count: int) -> tuple[int, int]:
        return divmod(epoch * self.batches_per_epoch + position + count, self.batches_per_epoch)

    def _indices(self, epoch: int, position: int) -> np.ndarray:
        known = self._order_of  # the thread that prefetches asks for one epoch, and who looks back for another
        if known is None or known[0] != epoch:
            known = self._order_of = (epoch, self._epoch_order(epoch))
        first = position * self._batch_size
        return known[1][first : first + self._batch_size]

    def skip(self) -> None:
        """Goes on to the next batch without reading this one."""
        self.position += 1
        if self.position == self.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0

    @property
    def shapes(self) -> int:
        """How many shapes batches have."""
        return 1 if self._buckets is None else len(self._buckets.sizes)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        length, size = self._source.length, self._batch_size
        if not self._shuffle:
            return np.arange(length)
        order = permutation(length, self._seed, epoch)
        if self._buckets is None:
            return order
        # What drop_last leaves out is drawn at random; otherwise it would always be the longest.
        order = order[: self.batches_per_epoch * size]
        order = order[np.argsort(self._buckets.of()[order], kind="stable")]
        whole = len(order) // size
        batches = order[: whole * size].reshape(whole, size)[permutation(whole, self._seed, epoch, 1)]
        return np.concatenate([batches.reshape(-1), order[whole * size :]])

    def state(self) -> dict[str, Any]:
        """Returns the position of the stream and what identifies it, as JSON values.

        Returns:
          `epoch` (number of completed epochs), `position` (number of batches taken from the current one), and
          the identity of the stream: seed, batch_size, length, shuffle, drop_last, fingerprint.

        Example:
          >>> Stream(Source(5, lambda i: {"inputs": i}, {}, "f00d"), batch_size=2, seed=7, start=4).state()
          ... # doctest: +NORMALIZE_WHITESPACE
          {'epoch': 1, 'position': 1, 'seed': 7, 'batch_size': 2, 'length': 5, 'shuffle': True,
           'drop_last': False, 'fingerprint': 'f00d'}
        """
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Moves the stream to a saved position, so that it continues with the same next batch.

        Args:
          state: the value returned by `state()`, possibly in another process.

        Raises:
          DataError: the state is damaged, or belongs to another seed, batch size, order or data set.

        Example:
          >>> source = Source(5, lambda i: {"inputs": i}, {}, "f00d")
          >>> stream = Stream(source, batch_size=2, seed=7)
          >>> stream.restore(Stream(source, batch_size=2, seed=7, start=4).state())
          >>> stream.epoch, stream.position
          (1, 1)
        """
        here = self._identity()
        missing = [name for name in ("epoch", "position", *_IDENTITY) if name not in state]
        if missing:
            raise DataError(f"the saved state of the data stream has no {', '.join(missing)}; start over with --fresh")
        changed = [
            f"{name} is {here[name]!r}, saved {state[name]!r}" for name in _IDENTITY if here[name] != state[name]
        ]
        if changed:
            raise DataError(
                f"the data stream is not the saved one: {'; '.join(changed)}; "
                "resume with the saved settings and data, or start over with --fresh"
            )
        epoch, position = state["epoch"], state["position"]
        if not (is_count(epoch) and is_count(position) and position < self.batches_per_epoch):
            raise DataError(
                "the saved state of the data stream is damaged: expected epoch >= 0 and position in "
                f"0..{self.batches_per_epoch - 1}, got epoch {epoch!r}, position {position!r}; start over with --fresh"
            )
        self.epoch, self.position = epoch, position

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "length": self._source.length,
            "shuffle": self._shuffle,
            "drop_last": self._drop_last,
            "fingerprint": self._source.fingerprint,
        }


def one_pass(
    source: Source, batch_size: int, limit: int | None = None, rows: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once and in order, for evaluation.

    Args:
      source: the examples.
      batch_size: B; the last partial batch is padded with examples of weight 0.
      limit: largest number of batches, or None for all.
      rows: which rows of each batch are read; by default all.

    Yields:
      Batches of the same shape, with `weight` float32 `[B]`.

    Example:
      >>> batches = one_pass(Source(3, lambda i: {"inputs": i}, {}, ""), batch_size=2)
      >>> [(batch["inputs"].tolist(), batch["weight"].tolist()) for batch in batches]
      [([0, 1], [1.0, 1.0]), ([2, 2], [1.0, 0.0])]
    """
    stop = source.length if limit is None else min(source.length, limit * batch_size)
    for first in range(0, stop, batch_size):
        yield gather(source, np.arange(first, min(first + batch_size, source.length)), batch_size, rows)


def gather(
    source: Source, indices: np.ndarray, batch_size: int, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Returns the batch of some examples, padded with examples of weight 0 to its size.

    Args:
      source: the examples.
      indices: int `[n]`, of at least 1 and at most B examples.
      batch_size: B.
      rows: int, which rows of the batch are read and returned; by default all.

    Raises:
      DataError: the source does not give an example for each index.
    """
    weight = np.ones(batch_size, np.float32)
    weight[indices.size :] = 0
    indices = padded(indices, batch_size)
    if rows is not None:
        indices, weight = indices[rows], weight[rows]
    try:
        examples = source.take(indices)
    except StopIteration as error:  # which would pass for the end of the batches, and so of the run
        raise DataError(
            f"the source has no examples {indices[0]}..{indices[-1]} although its length is {source.length}: its take "
            "raised StopIteration; give the source the number of examples that it has"
        ) from error
    short = next((name for name, array in examples.items() if len(array) != len(indices)), None)
    if short is not None:
        raise DataError(
            f"the source was asked for {len(indices)} examples and gave {len(examples[short])} of {short!r}; its take "
            "has to return one for each index"
        )
    return {**examples, "weight": weight * examples["weight"] if "weight" in examples else weight}


def padded(indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the examples of the rows of a batch: the rows that only pad repeat the first ones.

    Example:
      >>> padded(np.array([7, 5]), 3).tolist()
      [7, 5, 7]
    """
    return np.resize(indices, batch_size) if indices.size < batch_size else indices


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
