"""Calls of the compiled step: which ones compile, which are timed, and what counts as training."""

import threading

import jax.numpy as jnp
import pytest

from jaxprop.config.schema.run import Health
from jaxprop.run import stepper as stepper_module
from jaxprop.run.clock import Clock
from jaxprop.run.pace import FULL_CALLS, ROW_CALLS, Pace
from jaxprop.run.stepper import Stepper
from jaxprop.train.compilations import Change, Compilation
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


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_program_that_takes_long_to_compile_is_told_of_meanwhile(monkeypatch, patience):
    monkeypatch.setattr(stepper_module, "PATIENCE", patience)
    notes, told = [], threading.Event()

    def note(line):
        notes.append(line)
        told.set()

    def step(state, batch, detail):
        assert told.wait(60) if not patience else not told.is_set()
        return state, None

    step.compilations = []
    made = Stepper(step, Pace(Health(), 1), Clock(), 1)
    made.take(STATE, None, first=1, size=1, examples=1.0, note=note)
    assert [line.split(" ")[0] for line in notes] == (["compiled"] if patience else ["still", "compiled"])


@pytest.mark.parametrize("size", [1, 2])
def test_calls_are_timed_until_the_pace_is_chosen(size):
    _, _, pace, made = stepper(Health(), per_call=1)
    notes = []
    for first in range(1, 10 * (FULL_CALLS + ROW_CALLS)):
        made.take(STATE, None, first=first, size=size, examples=1.0, note=notes.append)
    # Calls of another size say nothing of the pace.
    assert pace.measuring == (size == 2)
    assert len([note for note in notes if note.startswith("health: ")]) == (size == 1)


def test_a_compilation_that_the_arguments_made_necessary_is_an_alert_and_no_training():
    calls, clock, _, made = stepper(Health(every=2, rare_every=4))
    seconds = clock.seconds
    change = Change('batch["x"]', "shape", "float32[4]", "float32[3]")
    calls.compilations += [
        Compilation(1, "full", 2.0, (), ""),
        Compilation(7, "rows", 0.5, (change,), "compiled"),
        Compilation(8, "rows", 0.25, (change,), ""),
    ]
    (line,) = made.alerts(107)
    assert (line["step"], line["kind"], line["severity"], line["value"]) == (107, "recompilation", "advice", 0.5)
    assert (line["message"], line["evidence"]) == ("compiled", {'batch["x"]': "float32[4] -> float32[3]"})
    assert line["fix"].startswith("give every batch the same shape")
    assert (clock.compile_seconds, clock.seconds) == (0.75, seconds - 0.75)
    assert made.alerts(108) == []


def test_what_was_compiled_before_is_none_of_the_loops_business():
    calls, clock, pace, _ = stepper(Health())
    calls.compilations.append(Compilation(7, "rows", 0.5, (Change("x", "shape", "a", "b"),), "compiled"))
    assert Stepper(calls, pace, clock, 1).alerts(1) == []


def test_shapes_that_the_data_are_known_to_have_are_no_news():
    calls, clock, pace, _ = stepper(Health())
    made = Stepper(calls, pace, clock, 1, shapes=3)
    shape = (Change('batch["inputs"]', "shape", "int32[4,8]", "int32[4,16]"),)
    of_state = (Change("state[0]", "shape", "a", "b"),)
    for detail, changes in [("rows", shape), ("rows", shape), ("full", shape), ("full", of_state), ("rows", shape)]:
        calls.compilations.append(Compilation(7, detail, 0.5, changes, f"compiled {detail} {changes[0].path}"))
    told = [line["message"] for line in made.alerts(107)]
    assert told == ["compiled full state[0]", 'compiled rows batch["inputs"]']  # a third shape would be the fourth
    assert clock.compile_seconds == 2.5
