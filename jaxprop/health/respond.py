"""What is done about alerts: which action, on what grounds, from which step on. Pure; the loop carries it out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.health.alerts import Alert
from jaxprop.types import Measurements, TrainState

POINT_STEPS = 200  # steps between rollback points, where checkpoints are not saved more often anyway
LEVEL = 200  # steps before the first sign whose median loss is the usual one
LEVELS = (1, 4, 16)  # in units of that: the newest two points of each spacing are kept
REMEMBERED = 512  # records whose gradient norm and rate are kept
CLIP_FACTOR = 1.5  # of the healthy median gradient norm
CLIP_FLOOR = 1 / 16
SMALLEST_SCALE = 2.0**-10
DEEPEST_CUT = 1 / 64  # at once: early in a warmup the rate is next to nothing
PATIENCE = 50  # steps that an action has before a fault that lasts is told again, and answered by the next one
RELATED = 200  # steps after that in which an alert still counts as of the same fault
LASTING = 10  # steps in a row that the guard in the step may hold an alert before more is done
BROKEN = 5  # steps in a row with a broken loss, after which nothing is waited for
RISEN = 0.9  # the rate has risen where the one before is less than this share of it


class Watching(Protocol):
    """Records in, alerts out; `jaxprop.health.Watch` is one."""

    def update(self, step: int, m: Measurements) -> list[Alert]: ...

    def rearm(self, step: int) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class Action(NamedTuple):
    """One response, decided on a record and carried out later, at a step that does not depend on when it was read.

    Args:
      name: `clip`, `cut_lr`, `rollback` or `stop`.
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


class Levers(NamedTuple):
    """How far the responses have tightened the run: `state.health["lr_scale"]` and `["grad_limit"]`."""

    lr_scale: float = 1.0
    grad_limit: float = math.inf


class Responder:
    """Reads every record in step order, says what to write about it, and what is due after each call.

    Actions are taken in the order given: the first alert to act on takes the first one, and one that comes after it
    has had its time takes the next; where the loss breaks in spite of it, the next one is taken at once. `rollback`
    repeats up to `tries` times, together with `cut_lr` where that is listed too; at the list's end whatever can still
    be repeated is. A fault counts from its first sign until a rollback has undone it, or it has not been seen for a
    while. Nothing here depends on when a record is read: an action decided at step s is due one call after the call
    that took s.

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
        usual = statistics.median([past.loss for past in self._past if past.step < sign.since][-LEVEL:] or [math.inf])
        self._broken = self._broken + 1 if not loss <= max(1.5 * usual, usual + 0.5) else 0
        if self._broken < BROKEN:
            return []
        self._broken = 0
        self._grow_impatient(step)
        return self.decide([sign._replace(step=step, why=f"the loss has broken all the same, {loss:.4g}; {sign.why}")])

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
            self._patient_until, self._answered = due + PATIENCE, sign
            self._since, self._related_until = sign.since, self._patient_until + RELATED
        return made

    def _tighten(self, name: str, sign: Sign, due: int) -> list[dict[str, Any]]:
        levers = self._clip(sign.since) if name == "clip" else self._cut_lr(sign.since)
        if levers is None:
            return []
        clip, old, self.levers = name == "clip", self.levers, levers
        value = levers.grad_limit if clip else levers.lr_scale
        what = f"gradient clipped to norm {value:.4g}" if clip else f"learning rate x {value / old.lr_scale:.3g}"
        self._pending.append(Action(name, sign.step, due, None, sign.why))
        return [_line(sign, name, value, due, f"{what} after step {due}: {sign.why}")]

    def _go_back(self, sign: Sign, due: int) -> list[dict[str, Any]]:
        to = max((point for point in self.points if point < sign.since), default=None)
        if to is None or self._rollbacks >= self._tries:
            return []
        self._rollbacks += 1
        lines = self._tighten("cut_lr", sign, due) if "cut_lr" in self._ladder and self._cuts(sign.since) else []
        self._pending.append(Action("rollback", sign.step, due, to, sign.why))
        what = f"after step {due} back to step {to}, and on with the data that come next ({self._rollbacks} of "
        return [*lines, _line(sign, "rollback", to, due, f"{what}{self._tries} tries): {sign.why}")]

    def _clip(self, since: int) -> Levers | None:
        """To a little above the healthy median; what is clipped already, to half of it."""
        healthy = [past.grad_norm for past in self._past if past.step < since and math.isfinite(past.grad_norm)]
        if not healthy:
            return None
        median = statistics.median(healthy)
        limit = _float32(min(CLIP_FACTOR * median, self.levers.grad_limit / 2))
        return self.levers._replace(grad_limit=limit) if limit > median * CLIP_FLOOR else None

    def _cut_lr(self, since: int) -> Levers | None:
        """To the rate in use when it began, or by half where that is no less."""
        before, now = self._rates(since)
        ratio = before / now if now > 0 else math.nan
        # To what it was, where it has risen: less would only make the rest of the run slow. Else by half, and so
        # where no rate is known, or a warmup began at zero.
        factor = max(ratio, DEEPEST_CUT) if 0 < ratio < RISEN else 0.5
        scale = _float32(max(self.levers.lr_scale * factor, SMALLEST_SCALE))
        return self.levers._replace(lr_scale=scale) if scale < self.levers.lr_scale else None

    def _rates(self, since: int) -> tuple[float, float]:
        """The learning rate before a fault's first sign and the present one, NaN where unknown."""
        rates = [past.rate for past in self._past]
        before = [past.rate for past in self._past if past.step < since] or rates[:1]
        return (before[-1], rates[-1]) if rates else (math.nan, math.nan)

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
        if self._watch is not None:
            if saved and saved["watch"] is not None:
                self._watch.restore(saved["watch"])
            self._watch.rearm(to)

    def state(self) -> dict[str, Any]:
        """Returns everything that later decisions depend on, as JSON values."""
        return {
            "watch": None if self._watch is None else self._watch.state(),
            "levers": [self.levers.lr_scale, _json(self.levers.grad_limit)],
            "lines": self.lines,
            "points": self.points,
            "past": [[past.step, *map(_json, past[1:])] for past in self._past],
            "advised": self._advised,
            "pending": [list(action) for action in self._pending],
            "counts": [self._rung, self._rollbacks, self._skipped, self._guarded, self._broken],
            "answered": None if self._answered is None else list(self._answered),
            "fault": [self._patient_until, self._since, self._related_until],
            "exhausted": self._exhausted,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned, perhaps in another process and with other actions listed."""
        if self._watch is not None and state["watch"] is not None:
            self._watch.restore(state["watch"])
        scale, limit = state["levers"]
        self.levers = Levers(scale, math.inf if limit is None else limit)
        self.lines, self.points, self._exhausted = state["lines"], list(state["points"]), state["exhausted"]
        self._past = deque((Past(step, *map(_float, values)) for step, *values in state["past"]), REMEMBERED)
        self._advised = dict(state["advised"])
        # An action that is no longer listed was called off by whoever changed the list.
        pending = [Action(*action) for action in state["pending"]]
        self._pending = [action for action in pending if action.name in self._ladder]
        self._rung, self._rollbacks, self._skipped, self._guarded, self._broken = state["counts"]
        self._answered = None if state["answered"] is None else Sign(*state["answered"])
        self._patient_until, self._since, self._related_until = state["fault"]
        self._rung = min(self._rung, max(len(self._ladder) - 1, 0))


def tighten(state: TrainState, levers: Levers) -> TrainState:
    """Returns the state with the levers set; its other leaves and every placement stay.

    Args:
      state: a train state whose step was made with `Signals(respond=True)`.
      levers: what to set.

    Example:
      >>> state = TrainState(0, {}, {}, (), None, (), {"lr_scale": jnp.float32(1), "grad_limit": jnp.float32(1)}, ())
      >>> tighten(state, Levers(lr_scale=0.5)).health["lr_scale"].item()
      0.5
    """

    def placed(value: float, old: jax.Array) -> jax.Array:
        # A committed scalar among uncommitted arrays, or the reverse, would compile the step again.
        return jax.device_put(np.float32(value), old.sharding) if old.committed else jnp.float32(value)

    levels = {name: placed(value, state.health[name]) for name, value in levers._asdict().items()}
    return state._replace(health={**state.health, **levels})


def point_interval(every_steps: int | None, per_call: int) -> int:
    """Returns the steps between rollback points: whole calls, about 200 steps, or as often as checkpoints are saved.

    Example:
      >>> point_interval(None, 1), point_interval(None, 64), point_interval(50, 10), point_interval(1000, 1)
      (200, 192, 50, 200)
    """
    wanted = min(every_steps or POINT_STEPS, POINT_STEPS)
    return max(wanted // per_call, 1) * per_call


def kept_points(points: Iterable[int], every: int) -> list[int]:
    """Thins rollback points: the newest two of every spacing, so that their gaps grow with their age.

    Args:
      points: steps, ascending.
      every: the smallest spacing.

    Returns:
      The steps to keep; always the newest two.

    Example:
      >>> kept_points(range(0, 4001, 200), 200)
      [0, 3200, 3800, 4000]
    """
    points = list(points)
    units = [every * level for level in LEVELS]
    kept = {(points[-1] // unit - back) * unit for unit in units for back in (0, 1)}
    return [point for i, point in enumerate(points) if point in kept or i >= len(points) - 2]


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


def _float32(value: float) -> float:
    return float(np.float32(value))


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value
