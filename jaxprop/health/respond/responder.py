"""What is done about alerts: which action, on what grounds, from which step on. Pure; the loop carries it out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprop.core.measurements import Measurements
from jaxprop.core.precision import Scaling
from jaxprop.health.respond.actions import Action, Schedule, Sign, action_line
from jaxprop.health.respond.calm import CALM, Calm
from jaxprop.health.respond.divergence import INTACT, SkipLimit, lost
from jaxprop.health.respond.fault import Fault
from jaxprop.health.respond.ladder import OF_THE_SCALE, Ladder
from jaxprop.health.respond.levers import SCALE_FACTORS, Levers, change, clipped, lowered, released
from jaxprop.health.respond.observer import Observer
from jaxprop.health.respond.points import POINT_STEPS, Points
from jaxprop.health.watch.advice import Setup, remedy
from jaxprop.health.watch.watch import Watch

OF_A_CONFIG = Setup("yaml")


class Responder:
    """Reads every record in step order, says what to write about it, and what is due after each call.

    Actions are taken in the order given: the first alert to act on takes the first one, and one that comes after it
    has had its time takes the next; where the loss breaks in spite of it, the next one is taken at once. `rollback`
    repeats up to `tries` times, together with `cut_lr` where that is listed too, and waits longer each time, so that
    the bad stretch of data may end before it; at the list's end whatever can still be repeated is. A rate that had
    risen is held where it was before; one that was cut without having risen is given back, once, after 100 calm
    steps, if the loss has recovered. A fault counts from its first sign until a rollback has undone it, or it has not
    been seen for a while. `raise_scale` and `lower_scale` answer alerts on the loss scale alone. Nothing here depends
    on when a record is read: an action decided at step s is due one call after the call that took s, or a fixed number
    of steps later.

    Args:
      actions: some of `skip, raise_scale, lower_scale, clip, cut_lr, rollback, stop`; `skip` and `clip` also guard
        inside the step.
      watch: gives the alerts; None: there are none.
      tries: rollbacks in a run.
      max_skips: non-finite steps in a row after which the run goes back, or has diverged.
      per_call: S, steps taken in one call.
      total_steps: steps of the run; no action is due later.
      point_every: steps between rollback points, a multiple of S.
      setup: what is known of the run, for what is advised at its end.

    Attributes:
      levers: how far the run has been tightened.
      diagnosis: why the run has diverged, or None.
      lines: how many were written to `alerts.jsonl`.

    Example:
      >>> responder = Responder(["cut_lr", "stop"], total_steps=100)
      >>> responder.decide([Sign(7, None, 3, "unstable", "loss x 2")])[0]["message"]
      'learning rate x 0.5 after step 8: loss x 2'
      >>> responder.due(7), [action.name for action in responder.due(8)], responder.levers.lr_scale
      ([], ['cut_lr'], 0.5)
    """

    def __init__(
        self,
        actions: Sequence[str],
        watch: Watch | None = None,
        *,
        tries: int = 3,
        max_skips: int = 25,
        per_call: int = 1,
        total_steps: int,
        point_every: int = POINT_STEPS,
        setup: Setup = OF_A_CONFIG,
    ):
        self._setup = setup
        self.levers = Levers()
        self.diagnosis: str | None = None
        self.lines = 0
        self._observer = Observer(watch)
        self._fault = Fault()
        self._ladder = Ladder(actions, tries)
        self._schedule = Schedule(per_call, total_steps)
        self._points = Points(point_every, wanted="rollback" in self._ladder)
        self._skips = SkipLimit(max_skips)
        self._calm = Calm()

    # -- records ----------------------------------------------------------------------------------

    def read(self, step: int, m: Measurements) -> list[dict[str, Any]]:
        """Takes in the record of a step and returns the lines it is worth in `alerts.jsonl`, in order."""
        if self._fault.outlasts(step):
            self._observer.rearm(step)
        loss, skipped = float(m.loss), bool(m.skipped)
        lines, signs = self._observer.read(step, m, self.levers.grad_limit)
        lines += self.decide(signs) if signs else []
        lines += self._answer_a_broken_loss(step, loss)
        lines += self._answer_skips(step, skipped)
        lines += self._give_back(step, loss, bool(signs) or skipped)
        self.lines += len(lines)
        return lines

    def _answer_a_broken_loss(self, step: int, loss: float) -> list[dict[str, Any]]:
        """Takes the next action at once where the last one has not kept the loss from breaking."""
        sign = self._fault.in_force(step)
        if sign is None:
            self._fault.broken = 0
            return []
        if not self._fault.breaks_through(self._observer.history.is_broken(loss, sign.since)):
            return []
        self._observer.rearm(step)
        # A broken loss is no fault of the loss scale: lowered again and again, that would only flush gradients to zero.
        cause = "unstable" if sign.cause in OF_THE_SCALE else sign.cause
        why = f"the loss has broken all the same, {loss:.4g}; {sign.why}"
        return self.decide([sign._replace(step=step, cause=cause, why=why)])

    def _answer_skips(self, step: int, skipped: bool) -> list[dict[str, Any]]:
        """Goes back, or gives the run up, where too many steps in a row were not finite."""
        if not self._skips.reached_by(skipped) or self._schedule.targets:
            return []
        if "rollback" in self._ladder:
            sign = Sign(step, None, step - self._skips.in_row + 1, "unstable", self._skips.why(step))
            lines = self._make("rollback", sign)
            if lines:
                self._skips.in_row = 0
                return lines
        # Whatever later records of the same reading say.
        if self.diagnosis is None:
            self.diagnosis = f"{self._skips.why(step)}. {INTACT}. {remedy(self._setup, self._observer.exploded)}"
        return []

    def give_up(self, skips: int, step: int, began: str = "") -> bool:
        """Whether a run that has ended has diverged after all, since nearly none of its steps changed anything.

        Args:
          skips: steps that were not finite.
          step: the last step.
          began: a sentence on the first of them.
        """
        said = lost(skips, step, self._skips.in_row)
        if said is not None and self.diagnosis is None:
            parts = (said, began, remedy(self._setup, self._observer.exploded))
            self.diagnosis = ". ".join(part for part in parts if part)
        return said is not None

    def _give_back(self, step: int, loss: float, sign: bool) -> list[dict[str, Any]]:
        """Ends a cut that was made without the rate having risen, once there has been no sign for a while."""
        levers = released(self.levers)
        if levers is None or self._calm.gave_back:
            return []
        answered = self._fault.answered or Sign(step, None, step, "unstable", "")
        if sign or self._observer.history.is_broken(loss, answered.since):
            self._calm.trouble = step
        if not self._calm.lasts(step, self._fault.acted_at):
            return []
        if not self._observer.history.has_recovered(answered.since, CALM // 2):
            return []  # a loss that stays where the fault has left it, as that of a dead network does, is no calm
        self._calm.gave_back = True
        why = f"there has been no sign of the fault for {CALM} steps"
        return self._pull("release", levers, answered._replace(step=step, why=why), self._schedule.next_due(step))

    # -- decisions --------------------------------------------------------------------------------

    def decide(self, signs: Sequence[Sign]) -> list[dict[str, Any]]:
        """Chooses the next action for what one record shows; returns the lines that say so.

        Nothing is done while an earlier action has yet to show its effect.
        """
        if not self._ladder.names or self._fault.waiting:
            return []
        sign = self._fault.joined(signs[0]._replace(since=min(sign.since for sign in signs)))
        order = self._ladder.order(sign.cause)
        if not order:  # what is listed sets the loss scale, and this is another fault
            return []
        for name in order:
            lines = self._make(name, sign)
            if lines:
                self._ladder.climb(name)
                return lines
        if self._ladder.exhausted:
            return []
        self._ladder.exhausted = True
        why = f"nothing that health.on_alert lists can be done any more, and the run goes on: {sign.why}"
        return [action_line(sign, "none", None, sign.step, why)]

    def _make(self, name: str, sign: Sign) -> list[dict[str, Any]]:
        """Decides on an action; returns no line where it cannot be taken."""
        due = self._schedule.next_due(sign.step)
        match name:
            case "stop":
                made = self._stop(sign, due)
            case "rollback":
                made = self._go_back(sign)
            case "clip":
                made = self._clip(sign, due)
            case "raise_scale" | "lower_scale":
                made = self._set_scale(name, sign, due)
            case _:
                made = self._cut_lr(sign, due)
        if made:
            self._fault.answer(sign, self._schedule.pending[-1].due)
        return made

    def _stop(self, sign: Sign, due: int) -> list[dict[str, Any]]:
        self._schedule.pending.append(Action("stop", sign.step, due, None, f"stopped at step {sign.step}: {sign.why}"))
        return [action_line(sign, "stop", None, due, f"the run stops after step {due}: {sign.why}")]

    def _set_scale(self, name: str, sign: Sign, due: int) -> list[dict[str, Any]]:
        factor, scale = SCALE_FACTORS[name], self._observer.scale
        if (factor > 1 and scale >= Scaling().largest) or (factor < 1 and scale <= Scaling().smallest):
            return []
        self._schedule.pending.append(Action(name, sign.step, due, None, sign.why))
        return [action_line(sign, name, factor, due, f"loss scale x {factor:g} after step {due}: {sign.why}")]

    def _clip(self, sign: Sign, due: int) -> list[dict[str, Any]]:
        levers = clipped(self.levers, self._observer.history.norms(before=sign.since))
        return [] if levers is None else self._pull("clip", levers, sign, due)

    def _cut_lr(self, sign: Sign, due: int) -> list[dict[str, Any]]:
        levers = lowered(self.levers, *self._observer.history.rates(sign.since))
        return [] if levers is None else self._pull("cut_lr", levers, sign, due)

    def _pull(self, name: str, levers: Levers, sign: Sign, due: int) -> list[dict[str, Any]]:
        """Sets the levers as from a step on."""
        value, what = change(name, self.levers, levers)
        self.levers = levers
        if name != "clip":
            self._calm.cut_due = due
        self._schedule.pending.append(Action(name, sign.step, due, None, sign.why))
        return [action_line(sign, name, value, due, f"{what} after step {due}: {sign.why}")]

    def _go_back(self, sign: Sign) -> list[dict[str, Any]]:
        ladder, to = self._ladder, self._points.before(sign.since)
        if to is None or not ladder.may_go_back:
            return []
        ladder.rollbacks += 1
        due = self._schedule.next_due(sign.step + ladder.wait)
        # The first time without a lower rate where a cut has undone what had risen.
        cuts = ladder.rollbacks > 1 or not self._observer.history.has_undone_a_rise(sign.since)
        lines = self._cut_lr(sign, due) if "cut_lr" in ladder and cuts else []
        self._schedule.pending.append(Action("rollback", sign.step, due, to, sign.why))
        which = f"{ladder.rollbacks} of {ladder.tries} tries"
        what = f"after step {due} back to step {to}, and on with the data that come next ({which}): {sign.why}"
        return [*lines, action_line(sign, "rollback", to, due, what)]

    # -- what the loop asks and tells ---------------------------------------------------------------

    def due(self, step: int) -> list[Action]:
        """Returns the actions to carry out after a step, and takes them for done."""
        ready = self._schedule.take(step)
        self.diagnosis = self.diagnosis or next((action.why for action in ready if action.name == "stop"), None)
        return ready

    def outcome(self, metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
        """Says that the run has learned nothing, which is the first thing to tell of it; None if it has.

        Args:
          metrics: its results by name.
          reference: those of trivial predictors, as the task's `reference`.
        """
        return self._observer.outcome(metrics, reference)

    def is_point(self, step: int) -> bool:
        """Whether a step is one that the run may later go back to."""
        return self._points.is_point(step)

    def saved(self, step: int) -> frozenset[int]:
        """Takes note of a checkpoint and returns the steps whose checkpoints must not be removed yet."""
        return self._points.saved(step, self._schedule.targets)

    def resumed(self, step: int) -> frozenset[int]:
        """Takes note that the run goes on from a checkpoint; returns the steps whose checkpoints must be kept."""
        return self._points.resumed(step)

    def went_back(self, to: int, saved: Mapping[str, Any] | None) -> None:
        """Takes note that the run is at an earlier step again, with what `state` had returned there."""
        self._points.forget(after=to)
        self._observer.forget(after=to)
        self._observer.restore_watch(saved["watch"] if saved else None)
        self._observer.rearm(to)
        self._schedule.pending = []
        self._fault = Fault()  # what comes now is a fault of its own
        self._skips.in_row = 0
        self._calm.trouble = self._calm.cut_due = to

    def state(self) -> dict[str, Any]:
        """Returns everything that later decisions depend on, as JSON values."""
        fault, ladder, calm, observer = self._fault, self._ladder, self._calm, self._observer
        return {
            "watch": observer.watch_state(),
            "levers": [value if math.isfinite(value) else None for value in self.levers],
            "lines": self.lines,
            "points": list(self._points.steps),
            "past": observer.history.state(),
            "advised": dict(observer.advised),
            "pending": [list(action) for action in self._schedule.pending],
            "counts": [ladder.rung, ladder.rollbacks, self._skips.in_row, observer.guarded, fault.broken],
            "answered": None if fault.answered is None else list(fault.answered),
            "calm": [calm.trouble, calm.cut_due, calm.gave_back],
            "fault": [fault.patient_until, fault.since, fault.related_until],
            "exhausted": ladder.exhausted,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned, perhaps in another process and with other actions listed."""
        self.levers = Levers(*(math.inf if value is None else value for value in state["levers"]))
        self.lines = state["lines"]
        rung, rollbacks, self._skips.in_row, guarded, broken = state["counts"]
        self._observer.restore_watch(state["watch"])
        self._observer.history.restore(state["past"])
        self._observer.advised, self._observer.guarded = dict(state["advised"]), guarded
        self._points.steps = list(state["points"])
        self._schedule.restore(state["pending"], (*self._ladder.names, "release"))
        self._ladder.restore(rung, rollbacks, state["exhausted"])
        self._calm = Calm(*state["calm"])
        answered = None if state["answered"] is None else Sign(*state["answered"])
        patient_until, since, related_until = state["fault"]
        self._fault = Fault(answered, patient_until, since, related_until, broken)
