"""Diverged runs once more, each with its own watch and responder, in lockstep on one vmapped step."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from faultbench.faults import STEPS, Plan, Program
from faultbench.run import Viewer, build, pools
from faultbench.score import LAST
from jaxprop.health import Watch
from jaxprop.health.respond.responder import Responder
from jaxprop.types import HealthState, TrainState

ACTIONS = ("clip", "cut_lr", "rollback")
POINT_EVERY = 100  # the runs are short; 200 in a real one


class Patient:
    """One run: its responder, its step, its losses, and the states it may go back to."""

    def __init__(self, viewer: Viewer):
        self.viewer = viewer
        watch = Watch(viewer.full.layers, source="yaml", run=viewer.known)
        self.responder = Responder(ACTIONS, watch, total_steps=STEPS, point_every=POINT_EVERY)
        self.step = 0
        self.losses: dict[int, float] = {}
        self.points: dict[int, tuple[TrainState, Any]] = {}
        self.actions: list[str] = []
        self.levers = self.responder.levers  # as its state holds them

    @property
    def done(self) -> bool:
        """Whether it has taken all its steps, or has been given up."""
        return self.step >= STEPS or self.responder.diagnosis is not None

    def point(self, state: TrainState) -> None:
        """Remembers the state of all runs, this one's with it, where the run may go back to this step."""
        if self.responder.is_point(self.step):
            kept = self.responder.saved(self.step)
            self.points[self.step] = (state, self.responder.state())
            self.points = {step: held for step, held in self.points.items() if step in kept}

    def after(self, packed: np.ndarray) -> int | None:
        """Takes in the record of the step just taken; returns the step to go back to, if it must."""
        self.step += 1
        m = self.viewer.at(packed, self.step)
        self.losses[self.step] = float(m.loss)
        self.responder.read(self.step, m)
        actions = self.responder.due(self.step)
        self.actions += [f"{action.name}@{action.due}" for action in actions]
        self.levers = self.responder.levers if actions else self.levers
        back = [action.to for action in actions if action.to is not None]
        return back[-1] if back and self.responder.diagnosis is None else None

    def go_back(self, to: int) -> None:
        """Takes note that its state is an earlier one again."""
        self.responder.went_back(to, self.points[to][1])
        self.step = to
        self.points = {step: held for step, held in self.points.items() if step <= to}

    def result(self) -> dict[str, Any]:
        """Its final loss, infinite where it never got to the end, and what was done."""
        last = [self.losses.get(step, math.inf) for step in range(STEPS - LAST + 1, STEPS + 1)]
        value = float(np.mean(last)) if self.step >= STEPS and np.isfinite(last).all() else math.inf
        return {"final": value, "actions": self.actions, "given_up": self.responder.diagnosis is not None}


class Ward:
    """Rescues runs of one program; compiled once."""

    def __init__(self, program: Program):
        self.program = program
        built = build(program, respond=True)
        self._start = jax.jit(jax.vmap(built.start))

        def advance(plan: Plan, pool: Any, state: TrainState, t: jax.Array) -> tuple[TrainState, jax.Array]:
            state, m, _ = built.advance(plan, pool, state, t)
            return state, m.packed

        self._advance = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None)))
        self._mix = jax.jit(_mix)

    def treat(self, plan: Plan, viewer: Viewer, count: int) -> list[dict[str, Any]]:
        """Takes the plan's runs to their end; results of the first `count`.

        The stream goes on where a run goes back, so a run that does meets the batches that come next.
        """
        pool = pools(self.program.model, tuple(np.asarray(plan.seed).tolist()))
        plan = jax.tree.map(jnp.asarray, plan)
        state = self._start(plan)
        patients = [Patient(viewer) for _ in range(count)]
        for patient in patients:
            patient.point(state)
        for t in range(plan.outlier.shape[1]):
            if all(patient.done for patient in patients):
                break
            state, packed = self._advance(plan, pool, state, jnp.int32(t))
            state = self._respond(state, np.asarray(packed), patients)
        return [patient.result() for patient in patients]

    def _respond(self, state: TrainState, packed: np.ndarray, patients: list[Patient]) -> TrainState:
        before, moved = [patient.levers for patient in patients], False
        waiting = [(r, patient) for r, patient in enumerate(patients) if not patient.done]
        for r, patient in waiting:
            to = patient.after(packed[r])
            if to is not None:
                mine = np.arange(packed.shape[0]) == r
                state, moved = self._mix(state, patient.points[to][0], jnp.asarray(mine)), True
                patient.go_back(to)
        levers = [patient.levers for patient in patients]
        if moved or levers != before:  # an earlier state holds the levers of then
            state = state._replace(health=_tightened(levers, state.health))
        for _, patient in waiting:
            if patient.step not in patient.points and not patient.done:
                patient.point(state)
        return state


def _tightened(levers: list[Any], health: HealthState) -> HealthState:
    """What `jaxprop.health.respond.levers.tighten` sets in one state, for all runs."""
    padded = [*levers, *[type(levers[0])()] * (health.rate_limit.shape[0] - len(levers))]
    most = float(np.finfo(np.float32).max)  # as the state holds "no limit"
    found = {
        name: jnp.asarray([min(getattr(x, name), most) for x in padded], jnp.float32) for name in padded[0]._fields
    }
    same = found["rate_limit"] == health.rate_limit
    return health._replace(**found, rate_peak=jnp.where(same, health.rate_peak, jnp.float32(0)))


def _mix(now: TrainState, then: TrainState, chosen: jax.Array) -> TrainState:
    """The state in which the chosen runs are as they were then."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), b, a)

    return jax.tree.map(pick, now, then)
