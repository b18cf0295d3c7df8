"""Calls of the compiled step: which ones compile, which are timed, and what counts as training."""

import jax.numpy as jnp
import pytest

from jaxprop.config.schema.run import Health
from jaxprop.run.clock import Clock
from jaxprop.run.pace import FULL_CALLS, ROW_CALLS, Pace
from jaxprop.run.stepper import Stepper
from jaxprop.types import TrainState

STATE = TrainState(0, {"w": jnp.ones(4)}, {}, (), None, (), {}, ())


class Calls:
    """A step that takes nothing but note of how it is called."""

    def __init__(self):
        self.details = []
        self.compilations = []

    def __call__(self, state, batch, detail):
        self.details.append(detail)
        return state, len(self.details)


def stepper(health, per_call=1):
    calls, clock, pace = Calls(), Clock(), Pace(health, per_call)
    return calls, clock, pace, Stepper(calls, pace, clock, per_call)


def test_the_first_call_of_each_variant_is_booked_as_compiling():
    calls, clock, _, made = stepper(Health(every=2, rare_every=4), per_call=2)
    notes = []
    for first, size in ((1, 2), (3, 2), (5, 2), (7, 2), (9, 1)):
        before = clock.compile_seconds, clock.examples
        made.take(STATE, None, first=first, size=size, examples=10.0, note=notes.append)
        compiled, examples = clock.compile_seconds > before[0], clock.examples - before[1]
        assert (compiled, examples) in ((True, 0.0), (False, 10.0))
    assert calls.details == ["full", "full", "rows", "full", "lean"]
    assert [note.partition(" s")[2] for note in notes] == [" (all signals)", "", ""]
    assert clock.examples == 20.0


@pytest.mark.parametrize("size", [1, 2])
def test_calls_are_timed_until_the_pace_is_chosen(size):
    _, _, pace, made = stepper(Health(), per_call=1)
    notes = []
    for first in range(1, 10 * (FULL_CALLS + ROW_CALLS)):
        made.take(STATE, None, first=first, size=size, examples=1.0, note=notes.append)
    # Calls of another size say nothing of the pace.
    assert pace.measuring == (size == 2)
    assert len([note for note in notes if note.startswith("health: ")]) == (size == 1)
