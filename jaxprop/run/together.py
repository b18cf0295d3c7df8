"""Lanes that take their steps together: each run has a loop and a thread of its own, and they meet at every step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.measurements import Measurements
from jaxprop.health.signals.settings import DETAILS
from jaxprop.run.spread import Spread
from jaxprop.train.lanes import Elsewhere, Shared
from jaxprop.types import Batch, TrainState


class Call(NamedTuple):
    """What of a step is called.

    Args:
      detail: what it measures.
      steps_per_call: steps that one call takes.
      options: of `jax.jit`.
    """

    detail: str
    steps_per_call: int
    options: dict[str, Any]


class Asked(NamedTuple):
    """What a lane waits for.

    Args:
      detail: what its step is to measure.
      batch: of the step.
    """

    detail: str
    batch: Batch


class Together:
    """The states of several lanes, stacked, and the place where their loops meet.

    A step is taken once every lane that takes part has asked for one, by the thread of the last. Lanes that ask for
    different measurements are stepped one after the other, and those that are not stepped keep their states to the bit;
    so what becomes of a lane does not depend on the others.

    Args:
      shared: the programs.
      count: lanes, some of which may be empty.
      devices: that the lanes lie on, equally many on each; by default the first one alone.
    """

    def __init__(self, shared: Shared, count: int, devices: Sequence[jax.Device] = ()):
        self._shared, self.count = shared, count
        self._spread = Spread(devices, count) if len(devices) > 1 else None
        split: dict[str, Any] = {} if self._spread is None else {"out_shardings": self._spread.sharding}
        self._meeting = threading.Condition()
        self._parts: set[int] = set()
        self._asked: dict[int, Asked] = {}
        self._answers: dict[int, Any] = {}
        self._values: dict[int, tuple[float, ...]] = {}
        self._states: TrainState | None = None
        self._programs: dict[str, Any] = {}
        self._stacked: Sequence[jax.Array] | None = None
        self._closed = False
        self._put = jax.jit(_put, donate_argnums=0, **split)
        self._get = jax.jit(_get)

    def join(self, slot: int, values: tuple[float, ...]) -> None:
        """Takes part in a lane: from now on the others wait for this one.

        Args:
          slot: the lane, from 0.
          values: the run's own numbers.
        """
        with self._meeting:
            self._parts.add(slot)
            self._values[slot] = values
            self._stacked = None

    def leave(self, slot: int) -> None:
        """Leaves a lane, whose state is of no use any more."""
        with self._meeting:
            self._parts.discard(slot)
            self._asked.pop(slot, None)
            self._meet()

    def close(self) -> None:
        """Ends whoever still asks for a step."""
        with self._meeting:
            self._closed = True
            self._answers.update({slot: RuntimeError("the other lanes have ended") for slot in self._asked})
            self._asked.clear()
            self._meeting.notify_all()

    def clear(self) -> None:
        """Forgets the states of all lanes, which nobody needs any more."""
        with self._meeting:
            self._states = None

    def lower(self, slot: int, call: Call, state: TrainState, batch: Batch) -> Any:
        """Traces the step of a lane as that of a single run."""
        values = tuple(jnp.asarray(value, jnp.float32) for value in self._values[slot])
        return self._shared.jitted(call.steps_per_call, call.options)[call.detail].lower(values, state, batch)

    def take(self, slot: int, call: Call, state: Any, batch: Batch) -> tuple[Elsewhere, Measurements]:
        """Takes a step of a lane, once all lanes have asked for one.

        Args:
          slot: the lane.
          call: what is called.
          state: of its first step; later that which this has returned.
          batch: of the step.

        Returns:
          Where the state is now, and what the step has measured.
        """
        with self._meeting:
            if isinstance(state, TrainState):
                self._states = self._with(slot, state)
            if self._closed:
                raise RuntimeError("the other lanes have ended")
            self._program_for(call)
            self._asked[slot] = Asked(call.detail, batch)
            self._meet()
            self._meeting.wait_for(lambda: slot in self._answers)
            answer = self._answers.pop(slot)
        if isinstance(answer, BaseException):
            raise answer
        return Elsewhere(partial(self._fetch, slot)), answer

    def _with(self, slot: int, state: TrainState) -> TrainState:
        if self._spread is not None:  # a state that was fetched lies on its lane's device alone
            state = jax.device_put(state, self._spread.everywhere)
        if self._states is not None:
            return self._put(self._states, slot, state)
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), state)
        return states if self._spread is None else jax.device_put(states, self._spread.sharding)

    def _fetch(self, slot: int) -> TrainState:
        with self._meeting:
            state = self._get(self._states, slot)
        return state if self._spread is None else jax.device_put(state, self._spread.device(slot))

    def _program_for(self, call: Call) -> None:
        if call.detail not in self._programs:
            kept = {name: value for name, value in call.options.items() if name == "compiler_options"}
            split = None if self._spread is None else self._spread.sharding
            self._programs[call.detail] = self._shared.together(call.steps_per_call, call.detail, kept, split)

    def _meet(self) -> None:
        """Takes a step if all are there; called by whoever may be the last."""
        if not self._parts or self._asked.keys() < self._parts:
            return
        asked, self._asked = self._asked, {}
        for detail in dict.fromkeys(one.detail for one in asked.values()):
            slots = [slot for slot, one in asked.items() if one.detail == detail]
            try:
                self._step(detail, slots, asked)
            except BaseException as error:  # each lane raises it, and ends
                self._answers.update(dict.fromkeys(slots, error))
        self._meeting.notify_all()

    def _step(self, detail: str, slots: Sequence[int], asked: dict[int, Asked]) -> None:
        some = asked[slots[0]].batch
        batches: Any = [asked[slot].batch if slot in slots else some for slot in range(self.count)]
        batches = batches if self._spread is None else self._spread.stacked(batches)
        mask = np.isin(np.arange(self.count), slots)
        if self._stacked is None:
            some_values = next(iter(self._values.values()))
            rows = [self._values.get(slot, some_values) for slot in range(self.count)]
            where = None if self._spread is None else self._spread.sharding  # once, and not in each step
            columns = tuple(np.asarray(column, np.float32) for column in zip(*rows, strict=True))
            self._stacked = jax.device_put(columns, where)
        self._states, measured = self._programs[detail](self._stacked, mask, self._states, batches)
        fetched = _Fetched(measured.packed)
        for slot in slots:
            self._answers[slot] = Measurements(_Row(fetched, slot), measured.layout)


class TogetherLane(NamedTuple):
    """One of the runs that take their steps together; as `jaxprop.train.lanes.Lane`.

    Args:
      together: all of them.
      slot: the lane.
    """

    together: Together
    slot: int

    def programs(self, steps_per_call: int, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the steps `(state, batch)` by what they measure."""
        calls = {detail: Call(detail, steps_per_call, options) for detail in DETAILS}
        return {detail: _Step(self.together, self.slot, call) for detail, call in calls.items()}


class _Step(NamedTuple):
    together: Together
    slot: int
    call: Call

    def __call__(self, state: Any, batch: Batch) -> tuple[Elsewhere, Measurements]:
        return self.together.take(self.slot, self.call, state, batch)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        return self.together.lower(self.slot, self.call, state, batch)


class _Fetched:
    """Records of all lanes, copied from the device once, when the first of them is read."""

    def __init__(self, packed: jax.Array):
        packed.copy_to_host_async()
        self._packed: Any = packed
        self._lock = threading.Lock()

    def host(self) -> np.ndarray:
        with self._lock:
            if not isinstance(self._packed, np.ndarray):
                self._packed = np.asarray(self._packed)
            return self._packed


class _Row:
    """The record of one lane."""

    def __init__(self, fetched: _Fetched, slot: int):
        self._fetched, self._slot = fetched, slot

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._fetched.host()[self._slot], dtype)


def _put(states: TrainState, slot: jax.Array, state: TrainState) -> TrainState:
    return jax.tree.map(lambda many, one: jax.lax.dynamic_update_index_in_dim(many, one, slot, 0), states, state)


def _get(states: TrainState, slot: jax.Array) -> TrainState:
    return jax.tree.map(lambda many: jax.lax.dynamic_index_in_dim(many, slot, 0, keepdims=False), states)
