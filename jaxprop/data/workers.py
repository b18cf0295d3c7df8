"""A stream whose batches are made in worker processes, by Grain: the same batches, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxprop.data.drawn import Drawn
from jaxprop.errors import DataError, JaxpropError, MissingExtraError

_ENDLESS = 2**40  # batches; Grain has no data set without a length
_AHEAD = 2  # batches that each worker has ready


class Seekable(Protocol):
    """A stream that can look ahead, such as `jaxprop.data.Stream`; it is copied to the workers."""

    batches_per_epoch: int

    @property
    def epoch(self) -> int: ...

    @property
    def position(self) -> int: ...

    def ahead(self, count: int) -> dict[str, np.ndarray]: ...

    def skip(self) -> None: ...

    def drawn(self, state: Mapping[str, Any], back: int) -> Drawn: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Workers:
    """A stream in processes of its own.

    The position is that of the stream, whatever the workers have ready; so it does not depend on their number, and a
    resume may change it.

    Args:
      stream: what the batches are of.
      workers: number of processes; they start with the first batch.

    Raises:
      MissingExtraError: Grain is not installed.
    """

    def __init__(self, stream: Seekable, workers: int):
        _grain()
        self._stream, self._workers = stream, workers
        self._batches: Any = None

    @property
    def batches_per_epoch(self) -> int:
        """Of the stream."""
        return self._stream.batches_per_epoch

    @property
    def epoch(self) -> int:
        """Of the stream."""
        return self._stream.epoch

    @property
    def position(self) -> int:
        """Of the stream."""
        return self._stream.position

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = _start(self._stream, self._workers)
        batch = next(self._batches)
        if isinstance(batch, _Failure):
            self.close()
            raise DataError(batch.message)
        self._stream.skip()
        # Copies, since the workers' shared memory goes when what Grain has made of it goes.
        return jax.tree.map(np.array, batch)

    def state(self) -> dict[str, Any]:
        """Returns the state of the stream."""
        return self._stream.state()

    def drawn(self, state: Mapping[str, Any], back: int) -> Drawn:
        """Of the stream."""
        return self._stream.drawn(state, back)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Moves the stream to a saved position; the workers start anew."""
        self.close()
        self._stream.restore(state)

    def close(self) -> None:
        """Ends the worker processes; the next batch starts others."""
        if self._batches is not None:
            close = getattr(self._batches, "close", None)
            if close is not None:
                close()
            self._batches = None


class _Failure(NamedTuple):
    """An error of a worker, which as an exception would lose its sentence on the way."""

    message: str


class _Ahead:
    """The batches from a position on, by index, as Grain's random access data sources give them."""

    def __init__(self, stream: Seekable):
        self._stream = stream

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._stream.ahead(int(index))
        except JaxpropError as error:
            return _Failure(str(error))

    def __repr__(self) -> str:
        return "jaxprop.data.workers"  # Grain stores it; the usual one holds an address, and differs in each process


def _start(stream: Seekable, workers: int) -> Any:
    grain = _grain()
    from absl import flags  # which Grain brings

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain has flags of the library absl, and this is no program of absl's
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    batches = grain.MapDataset.source(_Ahead(stream)).to_iter_dataset(options)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
    return iter(batches.mp_prefetch(processes))


def _grain() -> Any:
    try:
        import grain.python
    except ImportError as error:
        raise MissingExtraError("grain", "data.engine: grain") from error
    return grain.python
