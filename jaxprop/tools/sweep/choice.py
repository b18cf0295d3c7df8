"""How many runs of a program are trained at a time: one, or several as lanes of one step, whichever is faster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxprop.config.schema.config import Config
from jaxprop.core.trees import size_bytes
from jaxprop.run.calls import LOOP_SECONDS
from jaxprop.run.compose import Experiment, place
from jaxprop.run.lanes import DEVICES, Program, with_value
from jaxprop.run.together import Together, TogetherLane
from jaxprop.run.vocabulary import device_bytes
from jaxprop.tools.sweep.programs import Group

MOST_LANES = 64
SHARE = 0.5  # of a device's memory, that lanes may take
WORTH = 10  # times what compiling takes; shorter sweeps are not worth compiling a second program for
GAIN = 0.9  # of the time by single runs, that lanes have to keep below
STATES = 4  # arrays like the state that a step has beside each other: old, new, gradients, and what is stacked
CALLS = 5


class Chosen(NamedTuple):
    """How the runs of a program are trained.

    Args:
      group: the runs; as lanes, each is on one device.
      lanes: where several at a time meet; None for one after another.
      note: a line for a person.
    """

    group: Group
    lanes: Together | None
    note: str


def choose(group: Group, wanted: int | None) -> Chosen:
    """Chooses how many runs are trained at a time.

    Args:
      group: the runs.
      wanted: the number; None measures, if the sweep is long enough for that.
    """
    count, program = len(group.trials), group.program
    assert program is not None
    one_by_one = Chosen(group, None, _said(count, 1))
    apart, devices = _apart(group)
    if apart is None or apart.program is None or not _meets(apart.program.experiment):
        return one_by_one
    if wanted is not None:
        lanes = min(wanted, count)
        return one_by_one if lanes == 1 else Chosen(apart, _lanes(apart, lanes, devices), _said(count, lanes, devices))
    fit = min(count, len(devices) * min(_that_fit(apart.program.experiment), MOST_LANES))
    if fit < 2:
        return one_by_one
    one, compiling = _measured(program, group.trials[0].config)
    whole = count * program.experiment.total_steps * (one + LOOP_SECONDS)
    if whole < WORTH * compiling:
        return one_by_one._replace(note=f"{one_by_one.note}: {1e3 * one:.3g} ms a step")
    together = _lanes(apart, fit, devices)
    try:
        each = _measured_together(apart, together) / fit
    except Exception as error:  # whatever it is, runs by themselves may do without it
        why = str(error).strip().splitlines() or [type(error).__name__]
        return one_by_one._replace(note=f"{one_by_one.note}, since lanes failed: {why[0]}")
    if each > GAIN * one:
        took = f"{1e3 * one:.3g} ms a step, {1e3 * each:.3g} ms as {fit} lanes"
        return one_by_one._replace(note=f"{one_by_one.note}: {took}")
    took = f"{1e3 * each:.3g} ms a step, {1e3 * one:.3g} ms one after another"
    return Chosen(apart, together, f"{_said(count, fit, devices)}: {took}")


def _apart(group: Group) -> tuple[Group | None, Sequence[jax.Device]]:
    """The runs on one device each, and the devices; None where that is not possible."""
    assert group.program is not None
    mesh = group.program.experiment.mesh
    if mesh is None:
        return group, jax.devices()[:1]
    program = group.program.alone
    if program is None:
        return None, ()
    trials = [trial._replace(config=with_value(trial.config, DEVICES, 1)) for trial in group.trials]
    return group._replace(program=program, trials=trials), list(mesh.devices.flat)


def _lanes(group: Group, lanes: int, devices: Sequence[jax.Device]) -> Together:
    """At least so many lanes, equally many on each device."""
    assert group.program is not None
    used = devices[: min(len(devices), lanes)]
    return Together(group.program.shared, -(-lanes // len(used)) * len(used), used)


def _meets(experiment: Experiment) -> bool:
    """Whether lanes can meet: their batches are of one shape at every step, and lie on one device."""
    run, train = experiment.config.run, experiment.sources["train"]
    return run.steps_per_call == 1 and run.grow_batch is None and train.buckets is None and experiment.mesh is None


def _said(count: int, lanes: int, devices: Sequence[jax.Device] = ()) -> str:
    if count == 1:
        return "1 run"
    on = f" on {min(len(devices), lanes)} devices" if len(devices) > 1 else ""
    return f"{count} runs by one program, " + ("one after another" if lanes == 1 else f"{lanes} at a time{on}")


def _that_fit(experiment: Experiment) -> int:
    memory = device_bytes(experiment.mesh)
    if memory is None:
        return MOST_LANES
    state = jax.eval_shape(lambda: experiment.init(0))
    return int(SHARE * memory // (STATES * size_bytes(state)))


def _measured(program: Program, config: Config) -> tuple[float, float]:
    """Seconds of a step of one run, and seconds of compiling it."""
    experiment = program.member(config)
    state, batch = experiment.init(0), place(experiment, program.batch())[0]
    began = time.perf_counter()
    state, _ = jax.block_until_ready(experiment.step(state, batch, "rows"))
    compiling, took = time.perf_counter() - began, []
    for _ in range(CALLS):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.step(state, batch, "rows"))
        took.append(time.perf_counter() - began)
    return min(took) / config.run.per_call, compiling - min(took)


def _measured_together(group: Group, together: Together) -> float:
    """Seconds of a step of all lanes."""
    program = group.program
    assert program is not None
    experiment = program.with_lane(group.trials[0].config, TogetherLane(together, 0))
    batch = program.batch()
    together.join(0, program.values(group.trials[0].config))
    state, took = experiment.init(0), []
    for _ in range(CALLS + 1):
        began = time.perf_counter()
        state, measured = experiment.step(state, batch, "rows")
        measured.host()
        took.append(time.perf_counter() - began)
    together.leave(0)
    together.clear()
    return min(took[1:])
