"""What a library's module gives: a trainer that takes steps and says the last loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Trainer(NamedTuple):
    """A library's training of one workload.

    Args:
      run: `(n) -> loss`, takes n steps through the batches, waits until all of it is done, and returns the last loss.
      versions: of the libraries, by name.
      settings: what was chosen where the library has a choice, in words.
    """

    run: Callable[[int], float]
    versions: dict[str, str]
    settings: str = ""


class Unsupported(Exception):
    """A library has no such thing; the text says what."""


def stepping(take: Callable[[Any], Any], batches: list[Any], wait: Callable[[Any], float]) -> Callable[[int], float]:
    """Makes `run` of a function that takes one step on a batch and returns its loss, without waiting for it."""
    done = 0

    def run(n: int) -> float:
        nonlocal done
        loss: Any = None
        for _ in range(n):
            loss = take(batches[done % len(batches)])
            done += 1
        return wait(loss)

    return run
