"""How many runs are trained at a time: one, several as lanes of one step, or several in processes of their own.

What is faster is measured before anything is trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxprop.core.trees import size_bytes
from jaxprop.parallel.hosts import process_count
from jaxprop.run.calls import LOOP_SECONDS
from jaxprop.run.compose import Experiment
from jaxprop.run.host import available_bytes, cores, resident_bytes
from jaxprop.run.lanes import CALLS, DEVICES, with_value
from jaxprop.run.together import Together, TogetherLane
from jaxprop.run.vocabulary import device_bytes
from jaxprop.tools.sweep.plan import Plan
from jaxprop.tools.sweep.processes import Processes, to_train
from jaxprop.tools.sweep.programs import Group
from jaxprop.tools.sweep.training import Terms

MOST_LANES = 64
SHARE = 0.5  # of a device's memory, that lanes may take
WORTH = 10  # times what compiling takes; shorter sweeps are not worth compiling a second program for
GAIN = 0.9  # of the time by single runs, that lanes have to keep below
MOST_PROCESSES = 16
PROCESSES_WORTH = 3  # times what starting a process and compiling in it takes
START_SECONDS = 3.0  # of a process, until it compiles
ROUND_SECONDS = 0.5  # for which steps are timed beside those of other processes
STATES = 4  # arrays like the state that a step has beside each other: old, new, gradients, and what is stacked


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
    one, compiling = program.pace
    whole = count * program.experiment.total_steps * (one + LOOP_SECONDS)
    if whole < WORTH * compiling:
        return one_by_one._replace(note=f"{one_by_one.note}: {1e3 * one:.3g} ms a step")
    together = _lanes(apart, fit, devices)
    try:
        each = seconds_together(apart, together) / fit
    except Exception as error:  # whatever it is, runs by themselves may do without it
        why = str(error).strip().splitlines() or [type(error).__name__]
        return one_by_one._replace(note=f"{one_by_one.note}, since lanes failed: {why[0]}")
    if each > GAIN * one:
        took = f"{1e3 * one:.3g} ms a step, {1e3 * each:.3g} ms as {fit} lanes"
        return one_by_one._replace(note=f"{one_by_one.note}: {took}")
    took = f"{1e3 * each:.3g} ms a step, {1e3 * one:.3g} ms one after another"
    return Chosen(apart, together, f"{_said(count, fit, devices)}: {took}")


def choose_processes(plan: Plan, first: Group, terms: Terms, code: Sequence[str] = ()) -> Processes | None:
    """Returns processes that train the runs of a plan, where they are faster than this one by itself.

    On a CPU a step of a small model keeps few cores busy. The steps of a run are timed in this process and, at the same
    time, in as many others as there are cores.

    Args:
      plan: the runs.
      first: some of them, by whose first run this is measured.
      terms: what the runs have in common.
      code: files of the user's own that may be run.
    """
    program = first.program
    if program is None or jax.default_backend() != "cpu" or program.experiment.mesh is not None or process_count() > 1:
        return None
    left = len(to_train(plan.trials, terms))
    count = min(cores(), left, MOST_PROCESSES, _processes_that_fit())
    if count < 2:
        return None
    step, compiling = program.pace
    if left * program.experiment.total_steps * (step + LOOP_SECONDS) < PROCESSES_WORTH * (compiling + START_SECONDS):
        return None
    one = program.typical(ROUND_SECONDS)
    processes = Processes(plan, terms, None, count, code, first.trials[0])
    slowest = None
    try:
        slowest = processes.slowest()
    finally:
        faster = slowest is not None and slowest / processes.count < GAIN * one
        if not faster:
            processes.close()
    if terms.interrupts.asked is None:
        terms.tell(f"{left} runs in {_said_of_processes(one, slowest, processes.count, faster)}")
    return processes if faster else None


def _said_of_processes(one: float, slowest: float | None, count: int, faster: bool) -> str:
    if slowest is None:
        return "1 process, since another process ended"
    alone, several = f"{1e3 * one:.3g} ms", f"{1e3 * slowest / count:.3g} ms"
    if faster:
        return f"{count} processes: {several} a step, {alone} in one process"
    return f"1 process: {alone} a step, {several} in {count} processes"


def _processes_that_fit() -> int:
    free, mine = available_bytes(), resident_bytes()
    return MOST_PROCESSES if free is None or mine is None else int(SHARE * free // mine)


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


def seconds_together(group: Group, together: Together) -> float:
    """Returns the seconds of a step of all lanes, the least of several.

    Args:
      group: runs on one device each.
      together: the lanes.
    """
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
