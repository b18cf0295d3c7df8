"""Anyone's batches as a stream: a Grain iterator, a torch `DataLoader`, a generator."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxprop.errors import DataError, UsageError
from jaxprop.types import PyTree

EXACT = "a resume goes on with the exact next batch"
DRAWN_AGAIN = (
    "a resume draws the batches that were used already, and drops them; it is exact where they come in the same order "
    "again, so seed the loader"
)
_BYTES = "base64:"


class Batches:
    """An endless, resumable stream of batches from any iterable.

    An iterable that can be iterated again, such as a list or a `DataLoader`, begins anew when it ends. Tensors and
    lists of numbers become NumPy arrays; arrays of jax stay where they are.

    How a position is saved depends on what the iterable offers: `get_state` and `set_state` of its iterator (Grain), or
    `state_dict` and `load_state_dict` (torchdata). Of anything else the batches are counted; see `promise`.

    Args:
      batches: the iterable.
      depth: number of batches held back, so that the stream can be set back by as many.

    Raises:
      UsageError: it is not iterable.

    Example:
      >>> stream = Batches([{"x": [1.0]}, {"x": [2.0]}], depth=2)
      >>> [next(stream)["x"].tolist() for _ in range(3)]
      [[1.0], [2.0], [1.0]]
      >>> stream.state()["drawn"], stream.promise == DRAWN_AGAIN
      (3, True)
    """

    def __init__(self, batches: Any, depth: int):
        if not hasattr(batches, "__iter__") and not hasattr(batches, "__next__"):
            raise UsageError(
                f"expected an iterable of batches, got {type(batches).__name__}; give a jaxprop.data.Stream, a list, a "
                "DataLoader, a Grain iterator or a generator"
            )
        if isinstance(batches, Mapping):
            raise UsageError(
                "expected an iterable of batches, got a single mapping; give [batch] for a batch that is the same in "
                "every step, or a jaxprop.data.Stream, which takes batches of rows from a jaxprop.data.Source"
            )
        self._batches = batches
        self._iterator: Iterator[Any] | None = None
        # The newest, oldest first, each with the iterator's own state after it.
        self._held: deque[tuple[PyTree, Any]] = deque(maxlen=max(depth, 1))
        self._own: Any = None  # that state after the batch given last
        self._back = 0  # how many of those held are to be given again
        self._drawn = 0

    @property
    def promise(self) -> str:
        """What a resumed run can rely on."""
        return EXACT if self._saves() or hasattr(self._batches, "state_dict") else DRAWN_AGAIN

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches until the iterable begins anew, where it tells its length."""
        try:
            return len(self._batches) or None
        except TypeError:
            return None

    def __iter__(self) -> Iterator[PyTree]:
        return self

    def __next__(self) -> PyTree:
        if self._back:
            batch, self._own = self._held[-self._back]
            self._back -= 1
        else:
            batch = as_arrays(self._next())
            self._own = self._own_state()
            self._held.append((batch, self._own))
        self._drawn += 1
        return batch

    def peek(self) -> PyTree:
        """Returns the next batch without taking it."""
        before, batch = self._own, next(self)
        self._back, self._drawn, self._own = self._back + 1, self._drawn - 1, before
        return batch

    def state(self) -> dict[str, Any]:
        """Returns the position as JSON values: how many batches were drawn, and the iterator's own state if it has one.

        Raises:
          UsageError: that state is not JSON.
        """
        return {"drawn": self._drawn, "own": _plain(self._own)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Moves to a saved position.

        Args:
          state: what `state()` returned, possibly in another process.

        Raises:
          DataError: the iterable cannot go there, or ends before.
        """
        drawn, own = state["drawn"], state["own"]
        given_again = self._drawn - drawn + self._back
        if 0 <= given_again <= len(self._held):
            self._back, self._drawn, self._own = given_again, drawn, own
            return
        self._back = 0
        if own is not None:
            self._load(_unplain(own))
            self._held.clear()
            self._drawn, self._own = drawn, own
            return
        if drawn < self._drawn:
            raise DataError(
                f"the batches cannot be set back by {self._drawn - drawn}; give fit a jaxprop.data.Stream or a Grain "
                "iterator, which can"
            )
        while self._drawn < drawn:
            next(self)

    def _next(self) -> Any:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self._batches) if hasattr(self._batches, "__iter__") else self._batches
            try:
                return next(self._iterator)
            except StopIteration:
                if self._iterator is self._batches:  # one pass is all there is
                    break
                self._iterator = None
        raise DataError(
            f"the batches ended after {self._drawn}; give fit fewer steps, or an iterable that begins anew, such as a "
            "list, a DataLoader or a dataset that repeats"
        )

    def _saves(self) -> bool:
        if self._iterator is None and hasattr(self._batches, "get_state"):
            self._iterator = iter(self._batches)
        if self._iterator is None and not hasattr(self._batches, "state_dict"):
            self._iterator = iter(self._batches) if hasattr(self._batches, "__iter__") else self._batches
        return hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state")

    def _own_state(self) -> Any:
        if self._saves():
            return self._iterator.get_state()  # type: ignore[union-attr]
        return self._batches.state_dict() if hasattr(self._batches, "state_dict") else None

    def _load(self, own: Any) -> None:
        if self._saves():
            self._iterator.set_state(own)  # type: ignore[union-attr]
        elif hasattr(self._batches, "load_state_dict"):
            self._batches.load_state_dict(own)
            self._iterator = None
        else:
            raise DataError(
                "the run was saved with batches that keep a position of their own, and these do not; give fit the same "
                "kind, or start over with fresh=True"
            )


def as_stream(batches: Any, depth: int) -> Any:
    """Returns batches as a stream that can be saved and restored.

    Args:
      batches: a `jaxprop.data.Stream`, or anything else with its `state` and `restore`, stays as it is; any other
        iterable becomes `Batches`.
      depth: number of batches that `Batches` holds back.

    Example:
      >>> type(as_stream([{"x": 1.0}], depth=1)).__name__
      'Batches'
    """
    kept: tuple[str, ...] = ("state", "restore", "__next__")
    return batches if all(hasattr(batches, name) for name in kept) else Batches(batches, depth)


def as_arrays(batch: PyTree) -> PyTree:
    """Returns a batch with NumPy arrays for all that is not an array of jax already.

    Raises:
      DataError: a part of it is text or another thing that is no number.

    Example:
      >>> as_arrays({"x": [1, 2]})["x"].tolist()
      [1, 2]
    """
    return jax.tree.map(_as_array, batch, is_leaf=_is_numbers)


def _is_numbers(value: Any) -> bool:
    """A list of numbers is an array; one of arrays, as a `DataLoader` gives it, is a pair of inputs and labels."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, int | float | list) for one in value)


def _as_array(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "detach"):  # a tensor of torch, which may have a gradient or lie on a device
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biufV" or array.dtype == object:
        raise DataError(
            f"a batch holds {array.dtype} ({str(value)[:40]!r}), which no step can take; leave it out, or turn it into "
            "numbers"
        )
    return array


def _plain(state: Any) -> Any:
    """An iterator's own state as JSON; bytes, as Grain's `DataLoader` has them, as text."""
    if isinstance(state, bytes):  # a str that starts with the mark is one of these already
        return _BYTES + base64.b64encode(state).decode()
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the state of the batches' iterator is not JSON ({error}), so it cannot be saved with a checkpoint; give "
            "fit checkpoint=False, or an iterator whose state is plain"
        ) from error


def _unplain(state: Any) -> Any:
    if isinstance(state, str) and state.startswith(_BYTES):
        return base64.b64decode(state.removeprefix(_BYTES))
    return state
