"""The processes of a run: how many, which one this is, and what they agree on.

Process 0 decides: it alone holds the run's folder and writes records, and the others follow what it decides. Decisions
go through the key-value store of JAX's coordinator, so that no device is touched and a refusal ends all processes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # as Orbax does: the key-value store has no public name

from jaxprop.errors import JaxpropError, UsageError

AGREE_SECONDS = 1800.0  # process 0 may prepare a large data set while the others wait for what it decides
_SLICE = 0.5  # seconds of waiting, after which Python may act on a signal

_asked: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
_lost: list[PeerError] = []


class PeerError(JaxpropError):
    """Another process of the run has failed, so this one cannot go on; it ends with the same exit code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def process_count() -> int:
    """Returns the number of processes that run together; unlike `jax.process_count`, touches no device.

    Example:
      >>> process_count()
      1
    """
    return int(distributed.global_state.num_processes) if jax.distributed.is_initialized() else 1


def process_index() -> int:
    """Returns which of the processes this is; unlike `jax.process_index`, touches no device.

    Example:
      >>> process_index()
      0
    """
    return int(distributed.global_state.process_id) if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is process 0, which alone writes records and decides.

    Example:
      >>> is_first()
      True
    """
    return process_index() == 0


def agree(name: str, value: Any = None, seconds: float = AGREE_SECONDS) -> Any:
    """Returns process 0's value on every process; the others wait for it.

    Every process must call it with the same names in the same order. No device is touched.

    Args:
      name: what is agreed on; it may be used again.
      value: anything that JSON holds; of process 0, the others' is ignored.
      seconds: to wait for process 0.

    Returns:
      What process 0 has given.

    Raises:
      PeerError: process 0 has failed.
      JaxpropError: process 0 has given nothing in time.

    Example:
      >>> agree("steps", 100)
      100
    """
    if process_count() == 1:
        return value
    key = f"jaxprop/agree/{name}/{next(_asked[name])}"
    if is_first():
        store().key_value_set(key, json.dumps(value))
        return value
    found = wait_for(key, seconds)
    if found is None:
        raise JaxpropError(f"process 0 has not decided on {name!r} in {seconds:.0f} s; look at what it printed last")
    return json.loads(found)


def decided(name: str, decide: Callable[[], Any], seconds: float = AGREE_SECONDS) -> Any:
    """Returns what process 0 decides, on every process; an error of its ends all of them.

    Args:
      name: what is decided on, as in `agree`.
      decide: called by process 0 alone; what it returns must be what JSON holds.
      seconds: to wait for process 0.

    Example:
      >>> decided("a resume", lambda: {"step": 40})
      {'step': 40}
    """
    return agree(name, decide() if is_first() else None, seconds)


def check_alike(what: str, value: Any, seconds: float = 60.0) -> None:
    """Raises UsageError where the processes have different values; each of them says its own and waits for the others'.

    Args:
      what: the value is, as a person calls it.
      value: anything that JSON holds.
      seconds: to wait for each of the others.

    Example:
      >>> check_alike("the size of a batch", 32)
    """
    if process_count() == 1:
        return
    number, mine = next(_asked[f"alike/{what}"]), json.dumps(value)
    key = f"jaxprop/alike/{what}/{number}"
    put_first(f"{key}/{process_index()}", mine)
    for other in range(process_count()):
        theirs = wait_for(f"{key}/{other}", seconds)
        if theirs is None:
            raise UsageError(f"process {other} has not said {what} in {seconds:.0f} s, which is {mine} here")
        if theirs != mine:
            raise UsageError(
                f"{what} is {mine} in process {process_index()} and {theirs} in process {other}; all need one"
            )
    if is_first() and number:  # whoever has said this value has read all of those before
        store().key_value_delete(f"jaxprop/alike/{what}/{number - 1}")


def store() -> Any:
    """Returns the client of the key-value store that the processes share."""
    assert distributed.global_state.client is not None, "there is one process"
    return distributed.global_state.client


def wait_for(key: str, seconds: float) -> str | None:
    """Returns a key's value once it is set, or None where it is not in time; raises PeerError as `check_peers` does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check_peers()
        with contextlib.suppress(TimeoutError):
            return get(key, min(_SLICE, seconds))
    return None


def get(key: str, seconds: float) -> str:
    """Returns a key's value; raises TimeoutError where it is not set in time."""
    try:
        return str(store().blocking_key_value_get(key, int(1000 * seconds)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            raise TimeoutError(key) from error
        raise


def peek(key: str) -> str | None:
    """Returns a key's value, or None where it is not set; does not wait."""
    try:
        return str(store().key_value_try_get(key))
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return None


def poll_seconds() -> float:
    """Returns how often a process looks for what others have set: the more there are, the more rarely."""
    return max(0.25, process_count() / 200)


def put_first(key: str, value: str) -> bool:
    """Sets a key that is not set yet; returns whether it was this process that did."""
    try:
        store().key_value_set(key, value)
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" not in str(error):
            raise
        return False
    return True


def lose(error: PeerError | None) -> None:
    """Notes that a peer has failed, or with None that a new run begins; `check_peers` raises it in the main thread."""
    _lost[:] = [error] if error else []


def check_peers() -> None:
    """Raises PeerError where another process is known to have failed."""
    if _lost:
        raise _lost[0]
