"""Prefetching: batches are read, grouped and placed on the device in a background thread."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np

from jaxprop.errors import DataError

POLL = 0.1  # seconds between questions whether the wait is given up
PATIENCE = 2.0  # seconds that a thread which was given up has to end
MEMORY_SHARE, _UNKNOWN_MEMORY = 0.25, 2**33  # of a machine's bytes, and those of one that does not tell


def never() -> bool:
    """What waits for as long as it takes."""
    return False


class Resumable(Protocol):
    """An iterator of batches whose position can be saved, such as `jaxprop.data.Stream`."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def state(self) -> dict[str, Any]: ...


def prefetch(
    stream: Resumable,
    depth: int,
    place: Callable[[dict[str, np.ndarray]], Any],
    group: int | Iterable[int] = 1,
    given_up: Callable[[], bool] = never,
) -> Prefetch:
    """Prepares batches ahead of their use; see `Prefetch`.

    Args:
      stream: the batches; nothing else may use the stream until the prefetch is closed.
      depth: number of groups prepared ahead; 0 prepares each one on demand, without a thread.
      place: copies a batch, or a group stacked on a new leading axis, to the device. It runs in the
        background thread, where no mesh or default device of the caller's context is set.
      group: 1 yields single batches; an int S > 1 stacks S batches each time; an iterable gives the size of
        each group and the number of groups, such as `[4, 4, 2]` for 10 steps in calls of at most 4.
      given_up: asked while a group is waited for; once true, the iterator ends and its `abandoned` is true. With
        `depth` 0 nobody is left to ask.

    Returns:
      An iterator and context manager of `(placed, state)`.

    Raises:
      ValueError: `depth` is negative, or a group size is not positive.

    Example:
      >>> from jaxprop.data.stream import Stream
      >>> from jaxprop.types import Source
      >>> stream = Stream(Source(8, lambda i: {"inputs": i}, {}, ""), batch_size=2, seed=0, shuffle=False)
      >>> with prefetch(stream, depth=2, place=lambda batch: batch, group=[2, 1]) as batches:
      ...     for batch, state in batches:
      ...         print(batch["inputs"].tolist(), state["position"])
      [[0, 1], [2, 3]] 2
      [[4, 5]] 3
    """
    return Prefetch(stream, depth, place, group, given_up)


class Prefetch:
    """An iterator of `(placed, state)`, where `state` is the state of the stream just after that group.

    A checkpoint made after using a group saves the state that came with it, so that batches which were prepared
    but not used are read again by a resumed run. At most `depth` groups are held besides the one in use, and beyond two
    no more than a quarter of the machine's memory takes. An exception in the thread is raised by the `next()` that
    would have returned the group. The iterator is exhausted after its last group, an exception, `close()`, or a wait
    that was given up: then `abandoned` is true, and the thread may never end.
    """

    def __init__(
        self,
        stream: Resumable,
        depth: int,
        place: Callable[[dict[str, np.ndarray]], Any],
        group: int | Iterable[int] = 1,
        given_up: Callable[[], bool] = never,
    ):
        self._abandoned = threading.Event()
        if depth < 0:
            raise ValueError(f"expected a prefetch depth of 0 or more, got {depth}")
        groups = _groups(stream, place, group)
        if depth == 0:
            self._items: Iterator[tuple[Any, dict[str, Any]]] = groups
            self._closer: Callable[[], Any] = groups.close
            return
        worker = _Worker(
            queue.SimpleQueue(), threading.Semaphore(min(depth, 2)), threading.Event(), self._abandoned, depth
        )
        # The thread refers to the worker but not to self, so a Prefetch that is no longer used is still collected.
        thread = threading.Thread(target=worker.run, args=(groups,), name="jaxprop-prefetch", daemon=True)
        self._items = worker.receive(given_up)
        self._closer = weakref.finalize(self, worker.stop, thread)
        thread.start()

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[Any, dict[str, Any]]:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def abandoned(self) -> bool:
        """Whether a wait was given up."""
        return self._abandoned.is_set()

    def close(self) -> None:
        """Stops the thread and waits until it has ended, or a moment where it was given up."""
        self._closer()
        self._items = iter(())


class _End(NamedTuple):
    error: BaseException | None


class _Worker(NamedTuple):
    ready: queue.SimpleQueue
    slots: threading.Semaphore
    stopping: threading.Event
    abandoned: threading.Event
    depth: int

    def run(self, groups: Iterator[tuple[Any, dict[str, Any]]]) -> None:
        """Runs in the thread: fills `ready`, acquiring a slot before each group."""
        spare: int | None = None
        try:
            while self.slots.acquire() and not self.stopping.is_set():
                item = next(groups, None)
                if item is None:
                    break
                if spare is None:  # the size of the others is not known before the first
                    spare = min(self.depth, _most_groups(item[0])) - min(self.depth, 2)
                    if spare > 0:
                        self.slots.release(spare)
                self.ready.put(item)
            self.ready.put(_End(None))
        except BaseException as error:  # of any kind, because the consumer would otherwise wait forever
            self.ready.put(_End(error))

    def receive(self, given_up: Callable[[], bool]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yields the groups that `run` prepares, and releases the slot of each."""
        while True:
            try:
                item = self.ready.get(timeout=POLL)
            except queue.Empty:
                if given_up():
                    self.abandoned.set()
                    return
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            self.slots.release()
            yield item

    def stop(self, thread: threading.Thread) -> None:
        """Ends the thread, which checks `stopping` after each group and whenever it gets a slot."""
        self.stopping.set()
        self.slots.release()
        # Garbage collection may call this in the thread itself, which cannot join itself.
        if thread is not threading.current_thread():
            thread.join(PATIENCE if self.abandoned.is_set() else None)


def _most_groups(placed: Any) -> int:
    """How many groups as large as one a part of this machine's memory holds; at least 2."""
    size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(placed))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else _UNKNOWN_MEMORY
    return max(2, int(memory * MEMORY_SHARE) // max(size, 1))


def _groups(
    stream: Resumable, place: Callable[[dict[str, np.ndarray]], Any], group: int | Iterable[int]
) -> Generator[tuple[Any, dict[str, Any]], None, None]:
    sizes = itertools.repeat(group) if isinstance(group, int) else group
    single = isinstance(group, int) and group == 1
    for size in sizes:
        if size < 1:
            raise ValueError(f"expected a group of 1 batch or more, got {size}")
        batches = list(itertools.islice(stream, size))
        if not batches:
            return
        if len(batches) < size and not isinstance(group, int):
            raise DataError(
                f"the training data ended early: a call takes {size} batches, and only {len(batches)} were left; a "
                "stream gives batches as often as it is asked, so its __next__ must not raise StopIteration"
            )
        yield place(batches[0] if single else _stack(batches)), stream.state()


def _stack(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
    except ValueError as error:
        shapes = dict.fromkeys(str(jax.tree.map(np.shape, batch)) for batch in batches)
        if len(shapes) == 1:
            raise
        raise DataError(
            f"a call of {len(batches)} steps stacks their batches, which need the same arrays in the same shapes, got "
            f"{' and '.join(shapes)}; leave out a last batch that is smaller (drop_last=True of a torch DataLoader, "
            "drop_remainder=True of Grain), or take steps_per_call=1"
        ) from error
