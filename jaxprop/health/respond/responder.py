"""What is done about alerts: which action, on what grounds, from which step on. Pure; the loop carries it out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxprop.core.measurements import Measurements
from jaxprop.health.respond.levers import RISEN, Levers, clipped, lowered, released
from jaxprop.health.respond.points import POINT_STEPS, kept_points
from jaxprop.health.watch.alerts import Alert

LEVEL = 200  # steps before the first sign whose median loss is the usual one
REMEMBERED = 512  # records whose gradient norm and rate are kept
PATIENCE = 50  # steps that an action has before a fault that lasts is told again, and answered by the next one
RELATED = 200  # steps after that in which an alert still counts as of the same fault
LASTING = 10  # steps in a row that the guard in the step may hold an alert before more is done
BROKEN = 5  # steps in a row with a broken loss, after which nothing is waited for
CALM = 100  # steps without a sign after which a rate that was cut is given back, once
WAIT = 50  # steps before the second rollback, four times as many before each further one
LONGEST_WAIT = 1000


class Watching(Protocol):
    """Records in, alerts out; `jaxprop.health.Watch` is one."""

    def update(self, step: int, m: Measurements) -> list[Alert]: ...

    def rearm(self, step: int) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class Action(NamedTuple):
    """One response, decided on a record and carried out later, at a step that does not depend on when it was read.

    Args:
      name: `clip`, `cut_lr`, `rollback`, `release` (of a cut) or `stop`.
      step: of the record it was decided on.
      due: the step after which it is carried out.
      to: a rollback's checkpoint, else None.
      why: for a person.
    """

    name: str
    step: int
    due: int
    to: int | None
    why: str


class Sign(NamedTuple):
    """What an action answers: the alert's step, where, the first step of it, and its sentence."""

    step: int
    layer: str | None
    since: int
    cause: str
    why: str


class Past(NamedTuple):
    """What is remembered of one good step."""

    step: int
    grad_norm: float
    rate: float
    loss: float


class Responder:
    """Reads every record in step order, says what to write about it, and what is due after each call.

    Actions are taken in the order given: the first alert to act on takes the first one, and one that comes after it
    has had its time takes the next; where the loss breaks in spite of it, the next one is taken at once. `rollback`
    repeats up to `tries` times, together with `cut_lr` where that is listed too, and waits longer each time, so that
    the bad stretch of data may end before it; at the list's end whatever can still be repeated is. A rate that had
    risen is held where it was before; one that was cut without having risen is given back, once, after 100 calm
    steps. A fault counts from its first sign until a rollback has undone it, or it has not been seen for a while.
    Nothing here depends on when a record is read: an action decided at step s is due one call after the call that
    took s, or a fixed number of steps later.

    Args:
      actions: some of `skip, clip, cut_lr, rollback, stop`; `skip` and `clip` also guard inside the step.
      watch: gives the alerts; None: there are none.
      tries: rollbacks in a run.
      max_skips: non-finite steps in a row after which the run goes back, or has diverged.
      per_call: S, steps taken in one call.
      total_steps: steps of the run; no action is due later.
      point_every: steps between rollback points, a multiple of S.

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
        watch: Watching | None = None,
        *,
        tries: int = 3,
        max_skips: int = 25,
        per_call: int = 1,
        total_steps: int,
        point_every: int = POINT_STEPS,
    ):
        self._ladder = [name for name in actions if name in ("clip", "cut_lr", "rollback", "stop")]
        self._watch, self._tries, self._max_skips = watch, tries, max_skips
        self._per_call, self._total, self._point_every = per_call, total_steps, point_every
        self.levers = Levers()
        self.lines = 0  # written to alerts.jsonl
        self.diagnosis: str | None = None  # why the run has diverged
        self.points: list[int] = []
        self._past: deque[Past] = deque(maxlen=REMEMBERED)
        self._advised: dict[str, list[int]] = {}  # cause -> step and first sign of the newest advice
        self._pending: list[Action] = []
        self._rung = self._rollbacks = self._skipped = self._guarded = self._broken = 0
        self._answered: Sign | None = None  # what the last action answers
        self._trouble = self._cut_due = 0  # last step with a sign, and the step at which the last cut takes effect
        self._gave_back = False
        # No action is waited for, no fault is known.
        self._patient_until = self._since = self._related_until = -1
        self._exhausted = False

    # -- records ----------------------------------------------------------------------------------

    def read(self, step: int, m: Measurements) -> list[dict[str, Any]]:
        """Takes in the record of a step and returns the lines it is worth in `alerts.jsonl`, in order."""
        if 0 <= self._patient_until < step:
            self._grow_impatient(step)
        alerts = self._watch.update(step, m) if self._watch is not None else []
        lines = [alert.record() for alert in alerts]
        factor, skipped = float(m.guard), bool(m.skipped)
        guarded = not skipped and factor < self._limited(m)
        lines += self._guard_line(step, factor, float(m.grad_norm)) if guarded and not self._guarded else []
        self._guarded = self._guarded + 1 if guarded else 0
        if not (skipped or guarded):
            self._past.append(Past(step, float(m.grad_norm), float(m.learning_rate), float(m.loss)))
        signs = [] if skipped or guarded else [self._sign(alert) for alert in alerts if alert.severity == "act"]
        self._advised |= {alert.cause: [step, alert.since] for alert in alerts if alert.severity != "act"}
        if self._guarded == LASTING:
            why = f"the gradient norm has stood above its history for {LASTING} steps in a row"
            signs.append(Sign(step, None, step - LASTING + 1, "unstable", why))
        lines += self.decide(signs) if signs else []
        lines += self._count_broken(step, float(m.loss))
        lines += self._count_skips(step, skipped)
        lines += self._give_back(step, float(m.loss), bool(signs) or skipped)
        self.lines += len(lines)
        return lines

    def _sign(self, alert: Alert) -> Sign:
        """What an alert says, counted from the first advice of the same cause if that was lately."""
        at, since = self._advised.get(alert.cause, (0, alert.since))
        since = min(alert.since, since) if alert.step - at <= RELATED else alert.since
        return Sign(alert.step, alert.layer, since, alert.cause, alert.message)

    def _grow_impatient(self, step: int) -> None:
        """The last action has had its time: what lasts is told once more."""
        self._patient_until = -1
        if self._watch is not None:
            self._watch.rearm(step)

    def _limited(self, m: Measurements) -> float:
        """The factor that the response's own limit explains, less rounding; below it, the guard saw a spike."""
        norm = float(m.grad_norm)
        limited = min(1.0, self.levers.grad_limit / norm) if norm > 0 else 1.0
        return min(limited * 0.999, 1.0)

    def _guard_line(self, step: int, factor: float, norm: float) -> list[dict[str, Any]]:
        name, what = ("skip", "the step is skipped") if factor == 0 else ("clip", f"clipped to {factor:.3g} of it")
        why = f"gradient norm {norm:.4g} stands above its history; {what}"
        return [_line(Sign(step, None, step, "bad_batch", why), name, factor, step, why)]

    def _count_broken(self, step: int, loss: float) -> list[dict[str, Any]]:
        """Takes the next action at once where the last one has not kept the loss from breaking."""
        sign = self._answered
        in_force = sign is not None and self._patient_until - PATIENCE < step <= self._patient_until
        if sign is None or not in_force:
            self._broken = 0
            return []
        self._broken = self._broken + 1 if self._is_broken(loss, sign) else 0
        if self._broken < BROKEN:
            return []
        self._broken = 0
        self._grow_impatient(step)
        return self.decide([sign._replace(step=step, why=f"the loss has broken all the same, {loss:.4g}; {sign.why}")])

    def _is_broken(self, loss: float, sign: Sign) -> bool:
        usual = statistics.median([past.loss for past in self._past if past.step < sign.since][-LEVEL:] or [math.inf])
        return not loss <= max(1.5 * usual, usual + 0.5)

    def _give_back(self, step: int, loss: float, sign: bool) -> list[dict[str, Any]]:
        """Ends a cut that was made without the rate having risen, once there has been no sign for a while."""
        levers = released(self.levers)
        if levers is None or self._gave_back:
            return []
        answered = self._answered or Sign(step, None, step, "unstable", "")
        if sign or self._is_broken(loss, answered):
            self._trouble = step
        if step - max(self._trouble, self._patient_until - PATIENCE, self._cut_due) < CALM:
            return []
        self._gave_back = True
        why = f"there has been no sign of the fault for {CALM} steps"
        return self._pull("release", levers, answered._replace(step=step, why=why), self._due(step))

    def _count_skips(self, step: int, skipped: bool) -> list[dict[str, Any]]:
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped < self._max_skips or any(action.name == "rollback" for action in self._pending):
            return []
        what = f"loss or gradients were not finite for {self._max_skips} steps in a row, up to step {step}"
        if "rollback" in self._ladder:
            sign = Sign(step, None, step - self._skipped + 1, "unstable", what)
            lines = self._make("rollback", sign)
            self._skipped = 0 if lines else self._skipped
            if lines:
                return lines
        # Whatever later records of the same reading say.
        self.diagnosis = self.diagnosis or (
            f"{what}. Such steps change nothing, so what was saved before them is intact; lower optimizer.lr, or set "
            "optimizer.grad_clip={norm: 1.0}, and start over with --fresh"
        )
        return []

    # -- decisions --------------------------------------------------------------------------------

    def decide(self, signs: Sequence[Sign]) -> list[dict[str, Any]]:
        """Chooses the next action for what one record shows; returns the lines that say so.

        Nothing is done while an earlier action has yet to show its effect.
        """
        if not self._ladder or self._patient_until >= 0:
            return []
        sign = signs[0]._replace(since=min(sign.since for sign in signs))
        if 0 <= self._since < sign.since and sign.step <= self._related_until:
            sign = sign._replace(since=self._since)
        # Onwards, and at the end back to what can be repeated.
        onwards = self._ladder[self._rung :]
        for name in [*onwards, *(name for name in reversed(self._ladder) if name not in onwards)]:
            lines = self._make(name, sign)
            if lines:
                if name in onwards and not (name == "rollback" and self._rollbacks < self._tries):
                    self._rung = min(self._ladder.index(name) + 1, len(self._ladder) - 1)
                return lines
        if self._exhausted:
            return []
        self._exhausted = True
        why = f"nothing that health.on_alert lists can be done any more, and the run goes on: {sign.why}"
        return [_line(sign, "none", None, sign.step, why)]

    def _make(self, name: str, sign: Sign) -> list[dict[str, Any]]:
        """Decides on an action; returns no line where it cannot be taken."""
        due = self._due(sign.step)
        if name == "stop":
            why = f"the run stops after step {due}: {sign.why}"
            made = [_line(sign, "stop", None, due, why)]
            self._pending.append(Action("stop", sign.step, due, None, f"stopped at step {sign.step}: {sign.why}"))
        elif name == "rollback":
            made = self._go_back(sign, due)
        else:
            made = self._tighten(name, sign, due)
        if made:
            self._patient_until, self._answered = self._pending[-1].due + PATIENCE, sign
            self._since, self._related_until = sign.since, self._patient_until + RELATED
        return made

    def _tighten(self, name: str, sign: Sign, due: int) -> list[dict[str, Any]]:
        if name == "clip":
            levers = clipped(self.levers, [past.grad_norm for past in self._past if past.step < sign.since])
            return [] if levers is None else self._pull(name, levers, sign, due)
        levers = lowered(self.levers, *self._rates(sign.since))
        return [] if levers is None else self._pull(name, levers, sign, due)

    def _pull(self, name: str, levers: Levers, sign: Sign, due: int) -> list[dict[str, Any]]:
        """Sets the levers as from a step on."""
        old, self.levers = self.levers, levers
        if name == "clip":
            value, what = levers.grad_limit, f"gradient clipped to norm {levers.grad_limit:.4g}"
        elif levers.rate_limit < old.rate_limit:
            value, what = levers.rate_limit, f"learning rate held at {levers.rate_limit:.4g}"
        else:
            value, what = levers.lr_scale, f"learning rate x {levers.lr_scale / old.lr_scale:.3g}"
        self._cut_due = self._cut_due if name == "clip" else due
        self._pending.append(Action(name, sign.step, due, None, sign.why))
        return [_line(sign, name, value, due, f"{what} after step {due}: {sign.why}")]

    def _go_back(self, sign: Sign, due: int) -> list[dict[str, Any]]:
        to = max((point for point in self.points if point < sign.since), default=None)
        if to is None or self._rollbacks >= self._tries:
            return []
        self._rollbacks += 1
        due = self._due(sign.step + _wait(self._rollbacks))
        lines = self._tighten("cut_lr", sign, due) if "cut_lr" in self._ladder and self._cuts(sign.since) else []
        self._pending.append(Action("rollback", sign.step, due, to, sign.why))
        what = f"after step {due} back to step {to}, and on with the data that come next ({self._rollbacks} of "
        return [*lines, _line(sign, "rollback", to, due, f"{what}{self._tries} tries): {sign.why}")]

    def _rates(self, since: int) -> tuple[float, float]:
        """The learning rate before a fault's first sign and the present one, NaN where unknown."""
        rates = [past.rate for past in self._past]
        before = [past.rate for past in self._past if past.step < since]
        return before[-1] if before else math.nan, rates[-1] if rates else math.nan

    def _cuts(self, since: int) -> bool:
        """Whether going back takes a lower rate with it: not at first, where a cut has undone what had risen."""
        before, now = self._rates(since)
        rose = any(past.rate * RISEN > before for past in self._past if past.step >= since)
        return self._rollbacks > 1 or not (rose and now * RISEN <= before)

    def _due(self, step: int) -> int:
        """One call after the call that took the step: its record has been read by then, however early others are."""
        end = -(-step // self._per_call) * self._per_call
        return min(end + self._per_call, self._total)

    # -- what the loop asks and tells ---------------------------------------------------------------

    def due(self, step: int) -> list[Action]:
        """Returns the actions to carry out after a step, and takes them for done."""
        ready = [action for action in self._pending if action.due <= step]
        self.diagnosis = self.diagnosis or next((action.why for action in ready if action.name == "stop"), None)
        self._pending = [action for action in self._pending if action.due > step]
        return ready

    @property
    def wants_points(self) -> bool:
        """Whether the run is to be saved at its rollback points."""
        return "rollback" in self._ladder

    def is_point(self, step: int) -> bool:
        """Whether a step is one that the run may later go back to."""
        return self.wants_points and step % self._point_every == 0

    def saved(self, step: int) -> frozenset[int]:
        """Takes note of a checkpoint and returns the steps whose checkpoints must not be removed yet."""
        if not self.wants_points:
            return frozenset()
        before = self.points
        if self.is_point(step):
            self.points = kept_points([*(point for point in before if point < step), step], self._point_every)
        targets = {action.to for action in self._pending if action.to is not None}
        self.points = sorted({*self.points, *targets})
        # The older ones too: the save that makes them unneeded may yet be cut short.
        return frozenset([*before, *self.points])

    def resumed(self, step: int) -> frozenset[int]:
        """Takes note that the run goes on from a checkpoint; returns the steps whose checkpoints must not be removed.

        Where going back has only now been asked for, this is the first one to go back to.
        """
        if self.wants_points and not self.points:
            self.points = [step]
        return frozenset(self.points)

    def went_back(self, to: int, saved: Mapping[str, Any] | None) -> None:
        """Takes note that the run is at an earlier step again, with what `state` had returned there."""
        self.points = [point for point in self.points if point <= to]
        self._past = deque((past for past in self._past if past.step <= to), REMEMBERED)
        self._advised = {cause: seen for cause, seen in self._advised.items() if seen[0] <= to}
        self._pending, self._skipped, self._guarded, self._broken, self._answered = [], 0, 0, 0, None
        self._patient_until = self._since = self._related_until = -1  # what comes now is a fault of its own
        self._trouble = self._cut_due = to
        if self._watch is not None:
            if saved and saved["watch"] is not None:
                self._watch.restore(saved["watch"])
            self._watch.rearm(to)

    def state(self) -> dict[str, Any]:
        """Returns everything that later decisions depend on, as JSON values."""
        return {
            "watch": None if self._watch is None else self._watch.state(),
            "levers": [_json(value) for value in self.levers],
            "lines": self.lines,
            "points": self.points,
            "past": [[past.step, *map(_json, past[1:])] for past in self._past],
            "advised": self._advised,
            "pending": [list(action) for action in self._pending],
            "counts": [self._rung, self._rollbacks, self._skipped, self._guarded, self._broken],
            "answered": None if self._answered is None else list(self._answered),
            "calm": [self._trouble, self._cut_due, self._gave_back],
            "fault": [self._patient_until, self._since, self._related_until],
            "exhausted": self._exhausted,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned, perhaps in another process and with other actions listed."""
        if self._watch is not None and state["watch"] is not None:
            self._watch.restore(state["watch"])
        self.levers = Levers(*(math.inf if value is None else value for value in state["levers"]))
        self.lines, self.points, self._exhausted = state["lines"], list(state["points"]), state["exhausted"]
        self._past = deque((Past(step, *map(_float, values)) for step, *values in state["past"]), REMEMBERED)
        self._advised = dict(state["advised"])
        # An action that is no longer listed was called off by whoever changed the list.
        pending = [Action(*action) for action in state["pending"]]
        self._pending = [action for action in pending if action.name in (*self._ladder, "release")]
        self._rung, self._rollbacks, self._skipped, self._guarded, self._broken = state["counts"]
        self._answered = None if state["answered"] is None else Sign(*state["answered"])
        self._trouble, self._cut_due, self._gave_back = state["calm"]
        self._patient_until, self._since, self._related_until = state["fault"]
        self._rung = min(self._rung, max(len(self._ladder) - 1, 0))


def _line(sign: Sign, name: str, value: float | None, due: int, message: str) -> dict[str, Any]:
    return {
        "step": sign.step,
        "kind": "action",
        "action": name,
        "layer": sign.layer,
        "severity": "act",
        "value": value,
        "threshold": None,
        "message": message,
        "since": sign.since,
        "cause": sign.cause,
        "due": due,
    }


def _wait(rollbacks: int) -> int:
    """Steps before a rollback, the n-th of its run."""
    return 0 if rollbacks < 2 else min(WAIT * 4 ** (rollbacks - 2), LONGEST_WAIT)


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value
